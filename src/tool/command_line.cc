#include "tool/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <iterator>
#include <sstream>

#include "base/error.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr size_t kTextColumn = 26;
constexpr size_t kColumns = 80;

// `text` in lines of at most kColumns, all but the first indented to `column`; the first stands at `used`
// already.
std::string wrap(const std::string& text, size_t column, size_t used) {
  std::string wrapped;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (used > column && used + 1 + word.size() > kColumns) {
      wrapped += "\n" + std::string(column, ' ');
      used = column;
    } else if (used > column) {
      wrapped += ' ';
      ++used;
    }
    wrapped += word;
    used += word.size();
  }
  return wrapped + "\n";
}

// "-f, --format FMT"
std::string option_names(const CLI::Option& option) {
  std::string names;
  for (const std::string& name : option.get_snames())
    names += fmt::format("{}-{}", names.empty() ? "" : ", ", name);
  for (const std::string& name : option.get_lnames())
    names += fmt::format("{}--{}", names.empty() ? "" : ", ", name);
  if (option.get_positional()) names = option.get_name();
  return option.get_type_size() == 0 || option.get_positional() ? names
                                                                : names + " " + option.get_type_name();
}

std::string option_help(const CLI::Option& option) {
  std::string line = "  " + option_names(option);
  if (line.size() + 2 > kTextColumn) {
    line += "\n" + std::string(kTextColumn, ' ');
  } else {
    line.resize(kTextColumn, ' ');
  }
  return line + wrap(option.get_description(), kTextColumn, kTextColumn);
}

// The sentence for what CLI11 found wrong.
std::string sentence_of(const CLI::ParseError& error, const CLI::App& app) {
  const std::vector<std::string> extra = app.remaining(true);
  if (!extra.empty()) {
    const bool option = extra.front().size() > 1 && extra.front()[0] == '-';
    return fmt::format("{} '{}'", option ? "unrecognized option" : "unexpected argument:", extra.front());
  }
  return error.what();
}

}  // namespace

CommandLine::CommandLine(const Session& session, const std::string& command, const std::string& usage,
                         const std::string& description)
    : name_(command.empty() ? session.program : session.program + " " + command),
      usage_(usage),
      app_(description, name_) {
  app_.set_help_flag("-h,--help", "Show this help and exit");
  app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

CLI::Option* CommandLine::value(const std::string& names, std::string& into, const std::string& kind,
                                const std::string& text) {
  return app_.add_option(names, into, text)->type_name(kind);
}

CLI::Option* CommandLine::value(const std::string& names, std::optional<std::string>& into,
                                const std::string& kind, const std::string& text) {
  return app_
      .add_option_function<std::string>(
          names, [&into](const std::string& given) { into = given; }, text)
      ->type_name(kind);
}

CLI::Option* CommandLine::values(const std::string& names, std::vector<std::string>& into,
                                 const std::string& kind, const std::string& text) {
  return app_.add_option(names, into, text)
      ->type_name(kind)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}

CLI::Option* CommandLine::flag(const std::string& names, bool& into, const std::string& text) {
  return app_.add_flag_function(
                 names, [&into](std::int64_t count) { into = count > 0; }, text)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->disable_flag_override();
}

CLI::Option* CommandLine::step(const std::string& names, std::function<void()> function,
                               const std::string& text) {
  return app_.add_flag_function(
                 names, [function = std::move(function)](std::int64_t) { function(); }, text)
      ->disable_flag_override()
      ->trigger_on_parse();
}

CLI::Option* CommandLine::step_value(const std::string& names,
                                     std::function<void(const std::string&)> function,
                                     const std::string& kind, const std::string& text) {
  return app_.add_option_function<std::string>(names, std::move(function), text)
      ->type_name(kind)
      ->trigger_on_parse();
}

void CommandLine::arguments(std::vector<std::string>& into, const std::string& name,
                            const std::string& text) {
  app_.add_option(name, into, text)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(0, INT_MAX);
}

// getopt_long takes "--back" for "--backing-chain" when no other option begins so.
std::string CommandLine::expand_abbreviation(const std::string& argument) const {
  const size_t equals = argument.find('=');
  const std::string given = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
  std::vector<std::string> matches;
  for (const CLI::Option* option : app_.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (name == given) return argument;
      if (name.starts_with(given)) matches.push_back(name);
    }
  }
  if (matches.empty()) return argument;
  if (matches.size() > 1)
    fail_usage(fmt::format("option '--{}' is ambiguous: --{} or --{}?", given, matches[0], matches[1]));
  return "--" + matches[0] + (equals == std::string::npos ? "" : argument.substr(equals));
}

std::vector<std::string> CommandLine::expand_abbreviations(const std::vector<std::string>& arguments) const {
  std::vector<std::string> expanded;
  bool only_arguments = false;
  for (const std::string& argument : arguments) {
    only_arguments = only_arguments || argument == "--";
    const bool is_long = argument.size() > 2 && argument.starts_with("--") && !only_arguments;
    expanded.push_back(is_long ? expand_abbreviation(argument) : argument);
  }
  return expanded;
}

void CommandLine::print_help() const {
  fmt::print("{}{}\n", wrap(fmt::format("Usage: {} {}", name_, usage_), 0, 0),
             wrap(app_.get_description(), 0, 0));
  for (const CLI::Option* option : app_.get_options()) {
    if (option->get_positional()) fmt::print("{}", option_help(*option));
  }
  fmt::print("\nOptions:\n");
  for (const CLI::Option* option : app_.get_options()) {
    if (!option->get_positional()) fmt::print("{}", option_help(*option));
  }
}

void CommandLine::parse(const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed = expand_abbreviations(arguments);
  std::reverse(reversed.begin(), reversed.end());
  try {
    app_.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    print_help();
    throw Answered{};
  } catch (const CLI::ParseError& error) {
    fail_usage(sentence_of(error, app_));
  }
}

void CommandLine::fail_usage(const std::string& sentence) const {
  throw UsageError(fmt::format("{}\nTry '{} --help' for more information", sentence, name_));
}

void SecretOptions::add_to(CommandLine& line) {
  line.values(
      "--object", objects_, "OBJECT",
      "A secret: secret,id=ID,file=PATH (or data=TEXT; format=raw|base64; keyid=ID,iv=BASE64), which images "
      "refer to with key-secret=ID. Of the file every byte counts, a newline at its end too");
  line.value("--passphrase-file", passphrase_file_, "PATH",
             "The passphrase of all encrypted images that name no secret; one newline at its end is dropped");
  line.value("--passphrase-fd", passphrase_fd_, "N", "The same, read from an open file descriptor");
}

image::Secrets SecretOptions::secrets() const {
  image::Secrets secrets;
  for (const std::string& object : objects_) secrets.add_object(object);
  if (passphrase_file_ && passphrase_fd_)
    fail(ErrorKind::kInvalidArgument, "--passphrase-file and --passphrase-fd exclude each other");
  if (passphrase_file_ || passphrase_fd_) {
    crypto::SecretBytes passphrase =
        passphrase_file_ ? image::read_secret_file(*passphrase_file_)
                         : image::read_secret_fd(
                               static_cast<int>(parse_number(*passphrase_fd_, "--passphrase-fd", 0, INT_MAX)),
                               "file descriptor " + *passphrase_fd_);
    image::strip_newline(passphrase);
    secrets.set_default(std::move(passphrase));
  }
  secrets.set_prompt(ask_passphrase);
  return secrets;
}

std::vector<std::string> SecretOptions::take_objects(bool (*is_other)(const std::string& object)) {
  std::vector<std::string> taken;
  std::ranges::copy_if(objects_, std::back_inserter(taken), is_other);
  std::erase_if(objects_, is_other);
  return taken;
}

void SourceOptions::add_to(CommandLine& line, bool with_format, bool with_force_share) {
  if (with_format)
    line.value(
        "-f,--format", format, "FMT",
        "Format of the image: raw, qcow2 or luks, or vmdk, vdi, vhdx, vpc for reading; told by its content "
        "when not given");
  line.flag("--image-opts", image_opts,
            "Images are named by options: driver=qcow2,file.filename=PATH,encrypt.key-secret=ID");
  if (with_force_share)
    line.flag("-U,--force-share", force_share, "Read also what another process may be writing");
  line.flag(
      "--untrusted", untrusted,
      "Open no file that the image's header names (backing file, data file), but for those in folders of "
      "--allow-backing");
  line.values("--allow-backing", allowed_folders, "DIR",
              "Open files that the header names if they lie in this folder, the image's own too unless it is "
              "--untrusted; nothing else");
  line.flag("--trusted", trusted, "Open whatever the header names");
}

image::References SourceOptions::references() const {
  using Trust = image::References::Trust;
  if (trusted && (untrusted || !allowed_folders.empty()))
    fail(ErrorKind::kInvalidArgument, "--trusted excludes --untrusted and --allow-backing");
  if (trusted) return {};
  if (untrusted) return {.trust = Trust::kNone, .folders = allowed_folders};
  const bool narrows = !allowed_folders.empty() && usual_trust == Trust::kAll;
  return {.trust = narrows ? Trust::kBeside : usual_trust, .folders = allowed_folders};
}

image::ImageName SourceOptions::name(const std::string& argument) const {
  image::ImageName image = parsed(argument);
  image.references = references();
  return image;
}

image::ImageName SourceOptions::parsed(const std::string& argument) const {
  if (image_opts) {
    if (format)
      fail(ErrorKind::kInvalidArgument,
           "--image-opts and --format are mutually exclusive: give driver=FMT in the options");
    return image::parse_image_options(argument);
  }
  std::optional<image::Format> parsed;
  if (format) parsed = image::parse_format(*format);
  return image::parse_image_name(argument, parsed);
}

uint64_t parse_number(const std::string& text, const std::string& option, uint64_t least, uint64_t most) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < least || number > most)
    fail(ErrorKind::kInvalidArgument, "{} takes a number from {} to {}, not '{}'", option, least, most, text);
  return number;
}

bool parse_output_is_json(const std::string& output) {
  if (output != "human" && output != "json")
    fail(ErrorKind::kInvalidArgument, "--output must be used with human or json as argument, not '{}'",
         output);
  return output == "json";
}

}  // namespace cofre::tool
