// cofre amend: options of an existing image, and the passphrases that open it.
#include "image/amend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/creating.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct AmendArguments {
  std::optional<std::string> format;
  bool image_opts = false;
  std::vector<std::string> options;
  std::string cache = "writeback";
  bool force = false;
  bool percent = false;
  bool quiet = false;
  bool add = false;
  bool change = false;
  bool remove = false;
  std::optional<std::string> new_passphrase_file;
  std::optional<std::string> new_passphrase_fd;
  std::optional<std::string> iter_time;
  SecretOptions secrets;
  std::vector<std::string> names;

  bool changes_passphrase() const { return add || change || remove; }
};

void declare(CommandLine& line, AmendArguments& into) {
  line.value("-f,--format", into.format, "FMT",
             "Format of the image: qcow2 or luks; told by its content when not given");
  line.flag("--image-opts", into.image_opts,
            "The image is named by options: driver=qcow2,file.filename=PATH,encrypt.key-secret=ID");
  line.values("-o", into.options, "OPTIONS", "What to change: name=value,...; -o help lists the options");
  line.flag(
      "--add-passphrase", into.add,
      "Add a passphrase that opens the image, beside those it has: asks for one that opens it now, then "
      "for the new one");
  line.flag("--change-passphrase", into.change,
            "Replace the passphrase: the new one is added and seen to open the image before the old one is "
            "erased");
  line.flag("--remove-passphrase", into.remove,
            "Erase the passphrase that is given; another one must be left");
  line.value("--new-passphrase-file", into.new_passphrase_file, "PATH",
             "The new passphrase; one newline at the end of the file is dropped");
  line.value("--new-passphrase-fd", into.new_passphrase_fd, "N",
             "The same, read from an open file descriptor");
  line.value("--iter-time", into.iter_time, "MS",
             "Milliseconds that trying the new passphrase shall take (default 2000)");
  line.flag("--force", into.force,
            "Erase even the last passphrase, which destroys the content, and overwrite keyslots in use");
  line.value("-t", into.cache, "CACHE",
             "Cache mode of the image: none, writeback (default), writethrough, ...");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

image::ImageName image_name(const AmendArguments& given) {
  const SourceOptions source{.format = given.format, .image_opts = given.image_opts};
  return source.name(given.names[0]);
}

// ---- -o ----

void check_lists(const AmendArguments& given) {
  if (std::ranges::any_of(given.options, &std::string::empty))
    fail(ErrorKind::kInvalidArgument, "the option list of -o is empty");
}

bool asks_for_help(const AmendArguments& given) {
  return std::ranges::any_of(given.options,
                             [](const std::string& list) { return image::asks_for_help(list); });
}

io::task<image::Format> format_of(image::ImageName name) {
  image::OpenedImage image =
      co_await image::open_image(std::move(name), {.no_backing = true, .keys = image::Keys::kUnused});
  const image::Format format = image.top().format;
  co_await image.close();
  co_return format;
}

int print_help(const CommandLine& line, const AmendArguments& given) {
  image::Format format = image::Format::kRaw;
  if (given.format) {
    format = image::parse_format(*given.format);
  } else {
    if (given.names.size() != 1) line.fail_usage("expecting one image file name");
    io::Lanes lanes(1);
    format = lanes.run(format_of(image_name(given)));
  }
  image::require_amendable(format);
  fmt::print("{}", image::amend_options_help(format));
  return 0;
}

int amend_options(const AmendArguments& given, image::Secrets& secrets) {
  check_lists(given);
  ProgressDisplay progress(given.percent && !given.quiet ? ProgressDisplay::Style::kPercent
                                                         : ProgressDisplay::Style::kNone);
  uint64_t shown_percent = 0;
  const HeedingSignals heeding;
  image::AmendRequest request = {.name = image_name(given),
                                 .options = merge_options(given.options),
                                 .force = given.force,
                                 .cache = image::parse_cache_mode(given.cache),
                                 .control = {.progress =
                                                 [&](uint64_t done, uint64_t total) {
                                                   const uint64_t percent =
                                                       done * 100 / std::max<uint64_t>(total, 1);
                                                   if (percent != std::exchange(shown_percent, percent))
                                                     progress.show(done, total);
                                                 },
                                             .cancelled = interrupted}};
  progress.show(0, 1);
  io::Lanes lanes(1);
  lanes.run(image::amend_image(std::move(request), secrets));
  progress.show(1, 1);
  return 0;
}

// ---- passphrases ----

crypto::SecretBytes new_passphrase(const AmendArguments& given, const std::string& path) {
  std::optional<crypto::SecretBytes> passphrase;
  if (given.new_passphrase_file) {
    passphrase = image::read_secret_file(*given.new_passphrase_file);
    image::strip_newline(*passphrase);
  } else if (given.new_passphrase_fd) {
    const uint64_t fd = parse_number(*given.new_passphrase_fd, "--new-passphrase-fd", 0, INT32_MAX);
    passphrase = image::read_secret_fd(static_cast<int>(fd), "--new-passphrase-fd");
    image::strip_newline(*passphrase);
  } else {
    passphrase = ask_passphrase(path, /*creating=*/true);
  }
  if (!passphrase)
    fail(ErrorKind::kMissingSecret,
         "no new passphrase: give it with --new-passphrase-file FILE or --new-passphrase-fd N");
  if (passphrase->empty())
    fail(ErrorKind::kInvalidArgument, "the new passphrase is empty, which protects nothing");
  return std::move(*passphrase);
}

void check_passphrase_options(const CommandLine& line, const AmendArguments& given) {
  if (given.add + given.change + given.remove > 1)
    line.fail_usage("--add-passphrase, --change-passphrase and --remove-passphrase exclude each other");
  if (!given.options.empty())
    line.fail_usage("a passphrase and the options of -o are changed one after the other: leave out -o");
  if (given.new_passphrase_file && given.new_passphrase_fd)
    line.fail_usage("--new-passphrase-file and --new-passphrase-fd exclude each other");
  if (given.remove && (given.new_passphrase_file || given.new_passphrase_fd || given.iter_time))
    line.fail_usage("--remove-passphrase takes no new passphrase");
  if (given.percent) line.fail_usage("-p is for -o");
}

std::string keyslots_text(const std::vector<size_t>& keyslots) {
  return fmt::format("keyslot{} {}", keyslots.size() == 1 ? "" : "s", fmt::join(keyslots, ", "));
}

void print_outcome(const std::string& name, const image::PassphraseOutcome& outcome) {
  std::string text;
  if (outcome.added) text = fmt::format("the new passphrase is in keyslot {}", *outcome.added);
  if (!outcome.erased.empty())
    text += fmt::format("{}erased {}", text.empty() ? "" : "; ", keyslots_text(outcome.erased));
  fmt::print("'{}': {}\n", name, text);
}

int change_passphrase(const CommandLine& line, const AmendArguments& given, image::Secrets& secrets) {
  check_passphrase_options(line, given);
  image::PassphraseRequest request = {
      .name = image_name(given),
      .change = given.add      ? image::PassphraseChange::kAdd
                : given.change ? image::PassphraseChange::kReplace
                               : image::PassphraseChange::kRemove,
      .force = given.force,
      .cache = image::parse_cache_mode(given.cache),
      .new_passphrase = [&given](const std::string& path) { return new_passphrase(given, path); }};
  if (given.iter_time)
    request.cost.iter_time =
        std::chrono::milliseconds(parse_number(*given.iter_time, "--iter-time", 0, 3'600'000));
  io::Lanes lanes(1);
  const image::PassphraseOutcome outcome = lanes.run(image::change_passphrase(std::move(request), secrets));
  if (!given.quiet) print_outcome(given.names[0], outcome);
  return 0;
}

}  // namespace

int run_amend(const Session& session, const std::vector<std::string>& arguments) {
  AmendArguments given;
  CommandLine line(
      session, "amend", "[-f FMT] [--force] -o OPTIONS FILE",
      "Changes options of an existing image: the passphrases of an encrypted one, the version, "
      "refcounts and size of a qcow2. To rotate a passphrase: amend --change-passphrase FILE; in "
      "scripts, with --passphrase-file OLD --new-passphrase-file NEW.");
  declare(line, given);
  line.parse(arguments);
  if (asks_for_help(given)) return print_help(line, given);
  if (given.options.empty() && !given.changes_passphrase()) line.fail_usage("must specify options (-o)");
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  image::Secrets secrets = given.secrets.secrets();
  if (given.changes_passphrase()) return change_passphrase(line, given, secrets);
  if (given.new_passphrase_file || given.new_passphrase_fd || given.iter_time)
    line.fail_usage("a new passphrase is for --add-passphrase or --change-passphrase");
  return amend_options(given, secrets);
}

}  // namespace cofre::tool
