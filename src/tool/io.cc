// cofre io, the personality qemu-io: reads and writes parts of an image, command by command.
#include <fmt/format.h>

#include <iostream>

#include "base/error.h"
#include "io/lanes.h"
#include "layer/align.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/io_commands.h"
#include "tool/io_words.h"
#include "tool/probed_raw.h"
#include "tool/terminal.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

struct IoArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::vector<std::string> commands;
  std::string cache = "writeback";
  std::string discard = "unmap";
  std::string engine;
  bool no_cache = false;
  bool read_only = false;
  bool native_aio = false;
  bool version = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, IoArguments& into) {
  line.values("-c,--cmd", into.commands, "COMMAND",
              "A command to carry out; without any they are read from standard input. -c help lists them");
  into.source.add_to(line);
  line.flag("-r,--read-only", into.read_only, "Open the image for reading only");
  line.flag("-n,--nocache", into.no_cache, "As -t none");
  line.value("-t,--cache", into.cache, "CACHE",
             "Cache mode: none, writeback (default), writethrough, directsync, unsafe");
  line.value("-d,--discard", into.discard, "MODE", "What discard does: unmap (default), or ignore");
  line.flag("-k,--native-aio", into.native_aio, "Taken for compatibility: has no effect");
  line.value("-i,--aio", into.engine, "MODE", "Taken for compatibility: has no effect");
  line.flag("-V,--version", into.version, "Show the version and exit");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

io::task<IoTarget> open_target(const IoArguments& given, image::Secrets& secrets) {
  image::ImageName name = given.source.name(given.names[0]);
  if (!name.options.has("discard")) name.options.set("discard", given.discard);
  IoTarget target;
  target.image = co_await image::open_image(
      std::move(name), {.writable = !given.read_only,
                        .force_share = given.source.force_share,
                        .cache = image::parse_cache_mode(given.no_cache ? "none" : given.cache),
                        .secrets = &secrets});
  target.image.device = layer::make_aligning(std::move(target.image.device), 1);
  co_return target;
}

// False: the command failed; what went wrong is printed.
io::task<bool> run_command(IoTarget& target, const std::string& text) {
  const std::vector<std::string> words = split_words(text);
  if (words.empty()) co_return true;
  const IoCommand* const command = find_io_command(words[0]);
  try {
    if (command == nullptr) throw BadCommand(fmt::format("command \"{}\" not found", words[0]));
    co_return co_await command->run(target, words);
  } catch (const BadCommand& error) {
    fmt::print("{}\n", error.what());
  } catch (const Error& error) {
    fmt::print("{} failed: {}\n", command->name, error.what());
  }
  co_return false;
}

// Commands from standard input, until its end or `quit`. A read from a pipe blocks the lane: nothing else
// runs here.
io::task<bool> run_interactively(IoTarget& target, std::string prompt) {
  bool good = true;
  std::string text;
  while (!target.quit && !interrupted()) {
    fmt::print("{}", prompt);
    std::fflush(stdout);
    if (!std::getline(std::cin, text)) break;
    good = co_await run_command(target, text) && good;
  }
  if (!target.quit) fmt::print("\n");
  co_return good;
}

io::task<bool> run_commands(IoTarget& target, const std::vector<std::string>& commands) {
  bool good = true;
  for (const std::string& command : commands) {
    if (target.quit || interrupted()) break;
    good = co_await run_command(target, command) && good;
    std::fflush(stdout);
  }
  co_return good;
}

io::task<int> exercise(const Session& session, const IoArguments& given, image::Secrets& secrets) {
  IoTarget target = co_await open_target(given, secrets);
  if (!given.read_only) warn_of_probed_raw(target.image);
  const HeedingSignals heeding;  // between commands; the image is closed then
  const bool good = given.commands.empty()
                        ? co_await run_interactively(target, session.is_cofre() ? "cofre io> " : "qemu-io> ")
                        : co_await run_commands(target, given.commands);
  co_await target.image.close();
  if (interrupted()) co_return interrupted_exit_status();
  co_return good ? 0 : 1;
}

bool asks_only_for_help(const IoArguments& given) {
  if (!given.names.empty() || given.commands.empty()) return false;
  const std::vector<std::string> words = split_words(given.commands[0]);
  return !words.empty() && words[0] == "help";
}

}  // namespace

int run_io(const Session& session, const std::vector<std::string>& arguments) {
  IoArguments given;
  CommandLine line(
      session, session.is_cofre() ? "io" : "", "[-f FMT] [-r] [-c COMMAND]... FILE",
      "Reads and writes parts of a disk image, for scripts and tests. Exit status: 0 if all commands did "
      "what they should.");
  declare(line, given);
  line.parse(arguments);
  if (given.version) {
    fmt::print("{} version {} (cofre {})\n", session.program, kQemuVersion, kVersion);
    return 0;
  }
  io::Lanes lanes(1);
  if (asks_only_for_help(given)) {
    IoTarget nothing;
    return lanes.run(run_command(nothing, given.commands[0])) ? 0 : 1;
  }
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  image::Secrets secrets = given.secrets.secrets();
  return lanes.run(exercise(session, given, secrets));
}

}  // namespace cofre::tool
