// A command of `cofre io`, taken apart: words, short options, numbers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cofre::tool {

// A command that cannot be carried out as it was written; the message is what to print.
struct BadCommand : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The words between blanks.
std::vector<std::string> split_words(std::string_view line);

class CommandWords {
 public:
  // `options` is as for getopt: letters, those with a value followed by ':'. Options come anywhere before
  // "--". Throws BadCommand.
  CommandWords(const std::vector<std::string>& words, std::string_view options);

  bool has(char option) const { return given_.contains(option); }
  std::optional<std::string> value(char option) const;
  const std::vector<std::string>& arguments() const noexcept { return arguments_; }
  // Sizes may have suffixes. Throw BadCommand.
  uint64_t size(size_t argument) const;
  std::optional<uint64_t> size_value(char option) const;
  // 0 to 255, decimal, 0x hexadecimal or 0 octal.
  std::optional<std::byte> pattern() const;
  void expect_arguments(size_t least, size_t most) const;

 private:
  std::string name_;
  std::map<char, std::string> given_;
  std::vector<std::string> arguments_;
};

}  // namespace cofre::tool
