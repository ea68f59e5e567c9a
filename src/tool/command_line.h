// The command line of one command: getopt's habits (bundled short options, "-Oqcow2", abbreviated long
// options, options after arguments) on top of CLI11, and the options that many commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "image/image_name.h"
#include "image/open.h"
#include "image/secrets.h"
#include "tool/session.h"

namespace cofre::tool {

// The command line is not one. The message is a sentence for the user.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// --help or --version was answered.
struct Answered {};

class CommandLine {
 public:
  // `usage` follows the command's name in the first line of --help, `description` after it.
  CommandLine(const Session& session, const std::string& command, const std::string& usage,
              const std::string& description);

  // An option with a value; the last of several counts.
  CLI::Option* value(const std::string& names, std::string& into, const std::string& kind,
                     const std::string& text);
  CLI::Option* value(const std::string& names, std::optional<std::string>& into, const std::string& kind,
                     const std::string& text);
  // An option that may be given several times.
  CLI::Option* values(const std::string& names, std::vector<std::string>& into, const std::string& kind,
                      const std::string& text);
  CLI::Option* flag(const std::string& names, bool& into, const std::string& text);
  // Options that stand for steps, called in the order of the command line, as often as they are given.
  CLI::Option* step(const std::string& names, std::function<void()> function, const std::string& text);
  CLI::Option* step_value(const std::string& names, std::function<void(const std::string&)> function,
                          const std::string& kind, const std::string& text);
  // What is no option.
  void arguments(std::vector<std::string>& into, const std::string& name, const std::string& text);

  // Throws UsageError; Answered after --help, which it prints.
  void parse(const std::vector<std::string>& arguments);
  // Throws UsageError that also says where help is.
  [[noreturn]] void fail_usage(const std::string& sentence) const;

  const std::string& name() const noexcept { return name_; }

 private:
  std::vector<std::string> expand_abbreviations(const std::vector<std::string>& arguments) const;
  void print_help() const;
  std::string expand_abbreviation(const std::string& argument) const;

  std::string name_;  // "cofre convert"
  std::string usage_;
  CLI::App app_;
};

// --object, --passphrase-file, --passphrase-fd.
class SecretOptions {
 public:
  void add_to(CommandLine& line);
  // The secrets given; the prompt stands behind them. Throws Error.
  image::Secrets secrets() const;
  // Takes out the objects whose type is none of secrets(): "tls-creds-x509,id=...".
  std::vector<std::string> take_objects(bool (*is_other)(const std::string& object));
  // Whether there are any, so that nobody has to be asked.
  bool given() const noexcept { return !objects_.empty() || passphrase_file_ || passphrase_fd_; }

 private:
  std::vector<std::string> objects_;
  std::optional<std::string> passphrase_file_;
  std::optional<std::string> passphrase_fd_;
};

// -f, --image-opts, -U: how the source images of a command are named.
struct SourceOptions {
  std::optional<std::string> format;
  bool image_opts = false;
  bool force_share = false;
  bool untrusted = false;
  bool trusted = false;
  std::vector<std::string> allowed_folders = {};
  // What holds when none of --untrusted, --trusted, --allow-backing is given.
  image::References::Trust usual_trust = image::References::Trust::kAll;

  void add_to(CommandLine& line, bool with_format = true, bool with_force_share = true);
  // Throws Error.
  image::ImageName name(const std::string& argument) const;

 private:
  image::ImageName parsed(const std::string& argument) const;
  image::References references() const;
};

// A decimal number from an option. Throws Error kInvalidArgument.
uint64_t parse_number(const std::string& text, const std::string& option, uint64_t least, uint64_t most);
// "human" or "json". Throws Error kInvalidArgument.
bool parse_output_is_json(const std::string& output);

}  // namespace cofre::tool
