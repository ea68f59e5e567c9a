#include "tool/io_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "image/drivers.h"
#include "image/resize.h"
#include "io/reactor.h"
#include "tool/interrupt.h"
#include "tool/probed_raw.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr size_t kAny = SIZE_MAX;
constexpr uint64_t kNsPerMs = 1'000'000;
constexpr uint64_t kGlanceNs = 50 * kNsPerMs;

[[noreturn]] void refuse(const IoContext& context, std::string_view sentence) {
  throw Refused(fmt::format("{}: {}", context.session.program, sentence));
}

// ---- files ----

// Requests stopped at a breakpoint would not end; qemu-io waits for them for ever.
io::task<void> finish_requests(IoContext& context) {
  layer::Breakpoints* const breakpoints = context.image ? context.image->breakpoints() : nullptr;
  if (breakpoints != nullptr) breakpoints->resume_all();
  co_await context.requests.join();
}

// The name that `open` was given: a path, options with it, or options alone.
image::ImageName name_to_open(const IoContext& context, const CommandWords& words) {
  const std::string path = words.arguments().empty() ? "" : words.arguments()[0];
  const std::string listed = words.joined_values('o');
  if (context.image_opts) {
    if (!listed.empty()) throw BadCommand("--image-opts and 'open -o' are mutually exclusive");
    return image::parse_image_options(path);
  }
  if (path.empty()) return image::parse_image_options(listed);
  image::Options options = image::Options::parse_list(listed);
  const std::string driver = options.take("driver").value_or("");
  if (const image::Driver* const known = image::find_driver(driver)) {
    const std::string prefix = known->child.empty() ? "" : std::string(known->child) + ".";
    options.set("driver", driver);
    options.set(prefix + "filename", path);
    return image::image_name_of(std::move(options), path);
  }
  image::ImageName name = driver.empty() ? image::parse_image_name(path)
                                         : image::parse_image_name(path, image::parse_format(driver));
  name.options.merge(options);
  return name;
}

io::task<bool> run_open(IoContext& context, CommandWords words) {
  words.expect_arguments(words.has('o') ? 0 : 1, 1);
  const IoOpenOptions options = {.read_only = words.has('r'),
                                 .force_share = words.has('U'),
                                 .snapshot = words.has('s'),
                                 .copy_on_read = words.has('C'),
                                 .cache = words.value('t').value_or(words.has('n') ? "none" : "writeback"),
                                 .discard = words.value('d').value_or("unmap"),
                                 .aio = words.value('i').value_or(words.has('k') ? "native" : "")};
  try {
    options.check();
  } catch (const Error& error) {
    refuse(context, error.what());
  }
  if (context.image) refuse(context, "file open already, try 'help close'");
  image::ImageName name;
  try {
    name = name_to_open(context, words);
  } catch (const Error& error) {
    refuse(context, fmt::format("can't open: {}", error.what()));
  }
  co_return co_await open_io_image(context, std::move(name), options);
}

io::task<bool> run_close(IoContext& context, CommandWords) {
  co_await close_io_image(context);
  co_return true;
}

io::task<bool> run_reopen(IoContext& context, CommandWords words) {
  words.expect_arguments(0, 0);
  if (words.has('r') && words.has('w')) refuse(context, "Only one -r/-w option may be given");
  IoReopenChanges changes;
  if (words.has('r') || words.has('w')) changes.writable = words.has('w');
  try {
    if (const auto cache = words.value('c')) changes.cache = image::parse_cache_mode(*cache);
  } catch (const Error&) {
    refuse(context, fmt::format("Invalid cache option: {}", *words.value('c')));
  }
  try {
    changes.options = image::Options::parse_list(words.joined_values('o'));
    if (changes.writable && changes.options.has("read-only"))
      refuse(context, "Cannot set both -r/-w and 'read-only'");
    if (changes.cache && (changes.options.has("cache.direct") || changes.options.has("cache.no-flush")))
      refuse(context, "Cannot set both -c and the cache options");
    co_await finish_requests(context);
    co_await context.image->reopen(std::move(changes));
  } catch (const Error& error) {
    if (!context.image->is_open()) context.image.reset();
    refuse(context, error.what());
  }
  co_return true;
}

io::task<bool> run_flush(IoContext& context, CommandWords) {
  co_await context.image->device().flush();
  co_return true;
}

// Filters over the image pass this by: they have no size of their own.
io::task<bool> run_truncate(IoContext& context, CommandWords words) {
  words.expect_arguments(1, SIZE_MAX);  // what follows the size is not looked at
  image::OpenedImage& opened = context.image->opened();
  try {
    const qcow2::Preallocation mode = image::parse_preallocation(words.value('m').value_or("off"));
    const uint64_t length = words.size(0);
    if (mode != qcow2::Preallocation::kOff && length < opened.device->length_bytes())
      refuse(context, "Preallocation can't be used for shrinking an image");
    co_await image::resize_image(opened, length, mode);
  } catch (const Error& error) {
    refuse(context, error.what());
  }
  co_return true;
}

// ---- the program itself ----

io::task<bool> run_aio_flush(IoContext& context, CommandWords) {
  co_await context.requests.join();
  co_return true;
}

io::task<bool> run_sleep(IoContext&, CommandWords words) {
  const std::string& text = words.arguments().at(0);
  const std::optional<int64_t> asked = parse_whole(text);
  if (!asked || *asked < 0) throw BadCommand(fmt::format("{} is not a valid number", text));
  const uint64_t end = static_cast<uint64_t>(*asked);
  // In pieces, so that a signal ends it.
  for (uint64_t slept = 0; slept < end && !interrupted(); slept += kGlanceNs / kNsPerMs)
    co_await io::sleep_ns(std::min(kGlanceNs, (end - slept) * kNsPerMs));
  co_return true;
}

io::task<bool> run_quit(IoContext& context, CommandWords) {
  context.quit = true;
  co_return true;
}

io::task<bool> run_abort(IoContext&, CommandWords) {
  std::fflush(stdout);
  std::abort();
}

// The signal does what it does to a program that has no handler: commands want the crash, not the tidying up.
io::task<bool> run_sigraise(IoContext&, CommandWords words) {
  const uint64_t number = words.size(0);
  if (number >= NSIG)
    throw BadCommand(
        fmt::format("signal argument '{}' is too large to be a valid signal", words.arguments()[0]));
  const int signal = static_cast<int>(number);
  std::fflush(stdout);
  if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) std::signal(signal, SIG_DFL);
  if (signal != 0) std::raise(signal);
  co_return true;
}

void print_help_line(const IoCommand& command) {
  fmt::print("{}{}{} -- {}\n", command.name, command.usage.empty() ? "" : " ", command.usage, command.text);
}

struct OptionHelp {
  std::string_view commands;  // with blanks around each; empty: all that are not named before
  char letter;
  std::string_view text;
};
constexpr std::array kOptionHelp = {
    OptionHelp{" open ", 'C', "what is read from the backing file is kept in the image"},
    OptionHelp{" open ", 'i', "taken for compatibility: threads, native (with -n), io_uring"},
    OptionHelp{" open ", 's', "writes go into memory, and are lost in the end"},
    OptionHelp{" open ", 'n', "as -t none"},
    OptionHelp{" reopen ", 'c', "the cache mode: none, writeback, writethrough, directsync, unsafe"},
    OptionHelp{" write ", 's', "what is written is the content of this file, again and again"},
    OptionHelp{" write writev aio_write ", 'P', "the byte to write, instead of 0xcd"},
    OptionHelp{"", 'b', "the VM state instead of the disk"},
    OptionHelp{"", 'c', "store whole clusters compressed"},
    OptionHelp{"", 'C', "statistics for programs, in one line"},
    OptionHelp{"", 'd', "what discard does: unmap or ignore"},
    OptionHelp{"", 'f', "durable when the command ends"},
    OptionHelp{"", 'i', "not carried out: a request that could not be one"},
    OptionHelp{"", 'k', "as -i native"},
    OptionHelp{"", 'l', "as many bytes have to be those of -P"},
    OptionHelp{"", 'm', "preallocation of what is new: off, metadata, falloc, full"},
    OptionHelp{"", 'n', "with -z: only if that is fast"},
    OptionHelp{"", 'o', "options of the image: key=value,..."},
    OptionHelp{"", 'p', "no effect"},
    OptionHelp{"", 'P', "the byte that must have been read"},
    OptionHelp{"", 'q', "no statistics"},
    OptionHelp{"", 'r', "for reading only"},
    OptionHelp{"", 's', "where the bytes of -P begin"},
    OptionHelp{"", 't', "the cache mode: none, writeback, writethrough, directsync, unsafe"},
    OptionHelp{"", 'u', "with -z: may release the space"},
    OptionHelp{"", 'U', "read also what another process may be writing"},
    OptionHelp{"", 'v', "show the bytes"},
    OptionHelp{"", 'w', "for writing too"},
    OptionHelp{"", 'z', "zeros"},
};

void print_options_of(const IoCommand& command) {
  const std::string wanted = fmt::format(" {} ", command.name);
  for (const char letter : command.options) {
    const auto found = std::ranges::find_if(kOptionHelp, [&](const OptionHelp& help) {
      return help.letter == letter && (help.commands.empty() || help.commands.contains(wanted));
    });
    if (found != kOptionHelp.end()) fmt::print(" -{}  {}\n", letter, found->text);
  }
}

io::task<bool> run_help(IoContext&, CommandWords words) {
  if (words.arguments().empty()) {
    for (const IoCommand& command : io_commands()) print_help_line(command);
    fmt::print("\nUse 'help commandname' for extended help.\n");
    co_return true;
  }
  const IoCommand* const command = find_io_command(words.arguments()[0]);
  if (command == nullptr) throw BadCommand(fmt::format("command {} not found", words.arguments()[0]));
  print_help_line(*command);
  print_options_of(*command);
  co_return true;
}

constexpr IoCommand kCommands[] = {
    {"abort", "", 0, 0, true, false, "", "end the program at once, as a crash would", "", run_abort},
    {"aio_flush", "", 0, 0, false, false, "", "wait for all aio requests", "", run_aio_flush},
    {"aio_read", "", 2, kAny, false, false, "[-Ciqv] [-P pattern] off len [len..]",
     "start to read bytes; that they are others than -P says is no failure of the command", "CP:iqv",
     run_aio_read},
    {"aio_write", "", 2, kAny, false, true, "[-Cfiquz] [-P pattern] off len [len..]", "start to write bytes",
     "CfiP:quz", run_aio_write},
    {"alloc", "", 1, 2, false, false, "offset [count]", "how many bytes of a range this image itself holds",
     "", run_alloc},
    {"break", "", 2, 2, false, false, "event tag", "stop the next request at an event of blkdebug", "",
     run_break},
    {"close", "c", 0, 0, false, false, "", "close the file", "", run_close},
    {"discard", "d", 2, kAny, false, true, "[-Cq] off len", "give the space of a range back", "Cq",
     run_discard},
    {"flush", "f", 0, 0, false, false, "", "make everything written durable", "", run_flush},
    {"help", "?", 0, 1, true, false, "[command]", "help for one or all commands", "", run_help},
    {"info", "i", 0, 0, false, false, "", "what the image is", "", run_info},
    {"length", "l", 0, 0, false, false, "", "the size of the disk", "", run_length},
    {"map", "", 0, 0, false, false, "", "which ranges this image itself holds", "", run_map},
    {"open", "o", 1, kAny, true, false, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
     "open a file", "rsCnki:Ut:d:o:", run_open},
    {"quit", "q", 0, kAny, true, false, "", "end the program", "", run_quit},
    {"read", "r", 2, kAny, false, false, "[-bCqv] [-P pattern [-s off] [-l len]] off len", "read bytes",
     "bCl:pP:qs:v", run_read},
    {"readv", "", 2, kAny, false, false, "[-Cqv] [-P pattern] off len [len..]", "read bytes", "CP:qv",
     run_readv},
    {"remove_break", "", 1, 1, false, false, "tag", "forget a breakpoint, and resume what stopped there", "",
     run_remove_break},
    {"reopen", "", 0, kAny, false, false, "[(-r|-w)] [-c cache] [-o options]",
     "go on with other options of the open file", "c:o:rw", run_reopen},
    {"resume", "", 1, 1, false, false, "tag", "let the request go on that stopped at a breakpoint", "",
     run_resume},
    {"sigraise", "", 1, 1, true, false, "signal", "raise a signal, by its number", "", run_sigraise},
    {"sleep", "", 1, 1, true, false, "milliseconds", "wait", "", run_sleep},
    {"truncate", "t", 1, 3, false, true, "[-m prealloc_mode] off", "change the size of the disk",
     "m:", run_truncate},
    {"wait_break", "", 1, 1, false, false, "tag", "wait until a request stops at a breakpoint", "",
     run_wait_break},
    {"write", "w", 2, kAny, false, true, "[-bcCfnquz] [-P pattern | -s source_file] off len", "write bytes",
     "bcCfnpP:qs:uz", run_write},
    {"writev", "", 2, kAny, false, true, "[-Cfq] [-P pattern] off len [len..]", "write bytes",
     "CfqP:", run_writev},
};

// ---- the way to a command ----

std::string expected_words(const IoCommand& command) {
  if (command.most_words == kAny) return fmt::format("at least {} arguments", command.least_words);
  if (command.least_words == command.most_words) return fmt::format("{} arguments", command.least_words);
  return fmt::format("between {} and {} arguments", command.least_words, command.most_words);
}

// Throws Refused.
const IoCommand& command_for(const IoContext& context, const std::vector<std::string>& words) {
  const IoCommand* const command = find_io_command(words[0]);
  if (command == nullptr) throw Refused(fmt::format("command \"{}\" not found", words[0]));
  if (!command->without_file && !context.image) throw Refused("no file open, try 'help open'");
  const size_t count = words.size() - 1;
  if (count < command->least_words || count > command->most_words)
    throw Refused(
        fmt::format("bad argument count {} to {}, expected {}", count, words[0], expected_words(*command)));
  if (command->writes && !context.image->writable()) refuse(context, "Block node is read-only");
  return *command;
}

}  // namespace

io::task<bool> run_io_command(IoContext& context, std::string line) {
  const std::vector<std::string> words = split_words(line);
  if (words.empty()) co_return true;
  const IoCommand* command = nullptr;
  try {
    command = &command_for(context, words);
    co_return co_await command->run(context, CommandWords(words, command->options));
  } catch (const BadCommand& error) {
    fmt::print("{}\n", error.what());
  } catch (const Refused& error) {
    std::fflush(stdout);
    tell(fmt::format("{}\n", error.what()));
  } catch (const BadUsage& error) {
    std::fflush(stdout);
    if (*error.what() != '\0') tell(fmt::format("{}\n", error.what()));
    print_help_line(*command);
  } catch (const Error& error) {
    print_failure(context, command->name, error);
  }
  co_return false;
}

void print_failure(const IoContext& context, std::string_view what, const Error& error) {
  fmt::print("{} failed: {}\n", what, std::strerror(error.errno_value()));
  if (!context.session.is_cofre()) return;
  std::fflush(stdout);
  tell(fmt::format("{}\n", error.what()));
}

io::task<bool> open_io_image(IoContext& context, image::ImageName name, IoOpenOptions options) {
  const std::string text = name.text;
  try {
    context.image = co_await IoImage::open(std::move(name), std::move(options), context.secrets);
  } catch (const Error& error) {
    std::fflush(stdout);
    tell(fmt::format("{}: can't open device {}: {}\n", context.session.program, text, error.what()));
    co_return false;
  }
  if (context.image->writable()) warn_of_probed_raw(context.image->opened());
  co_return true;
}

io::task<void> close_io_image(IoContext& context) {
  if (context.image && context.image->breakpoints() != nullptr) context.image->breakpoints()->forget_all();
  co_await finish_requests(context);
  const std::unique_ptr<IoImage> closing = std::move(context.image);
  if (closing) co_await closing->close();
}

std::span<const IoCommand> io_commands() noexcept {
  return kCommands;
}

const IoCommand* find_io_command(std::string_view name) noexcept {
  for (const IoCommand& command : kCommands) {
    if (command.name == name || (!command.alias.empty() && command.alias == name)) return &command;
  }
  return nullptr;
}

}  // namespace cofre::tool
