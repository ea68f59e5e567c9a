// A command of `cofre io`, taken apart: words, short options, numbers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cofre::tool {

// A command that cannot be carried out as it was written; the message is what to print.
struct BadCommand : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The same, for standard error.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A command that is not written as its usage has it: that is shown, after the message if there is one.
struct BadUsage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The longest request of qemu-io, in bytes.
inline constexpr uint64_t kMaxRequestBytes = 2147483136;

// Bytes of the disk, or of the VM state.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};

// The words between blanks. There are no quotes: nothing that commands take has blanks in it but file names.
std::vector<std::string> split_words(std::string_view line);

// A size or offset, with a suffix or without. Throws BadCommand.
uint64_t parse_byte_count(const std::string& text);
// A whole number: decimal, 0x hexadecimal or 0 octal. Nothing for what is none, or does not fit.
std::optional<int64_t> parse_whole(const std::string& text);

class CommandWords {
 public:
  // `options` is as for getopt: letters, those with a value followed by ':'. Options come anywhere before
  // "--". Throws BadUsage.
  CommandWords(const std::vector<std::string>& words, std::string_view options);

  const std::string& name() const noexcept { return name_; }
  bool has(char option) const { return given_.contains(option); }
  // The last that was given.
  std::optional<std::string> value(char option) const;
  // All that were given, with commas between: lists of options add up.
  std::string joined_values(char option) const;
  const std::vector<std::string>& arguments() const noexcept { return arguments_; }
  // Throw BadCommand.
  uint64_t size(size_t argument) const { return parse_byte_count(arguments_[argument]); }
  std::optional<uint64_t> size_value(char option) const;
  // 0 to 255.
  std::optional<std::byte> pattern() const;
  // Throws BadUsage.
  void expect_arguments(size_t least, size_t most) const;

  // "off len". Throw BadUsage, BadCommand. `bounded`: not longer than kMaxRequestBytes.
  ByteRange range(bool bounded = true) const;
  // "off len [len...]": the lengths are added up.
  ByteRange vector_range() const;

 private:
  std::string name_;
  std::map<char, std::vector<std::string>> given_;
  std::vector<std::string> arguments_;
};

}  // namespace cofre::tool
