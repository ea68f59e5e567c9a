#include "tool/io_words.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>

#include "base/error.h"
#include "image/size.h"

namespace cofre::tool {

std::vector<std::string> split_words(std::string_view line) {
  constexpr std::string_view kBlanks = " \t\r\n";
  std::vector<std::string> words;
  size_t at = line.find_first_not_of(kBlanks);
  while (at != std::string_view::npos) {
    const size_t end = std::min(line.find_first_of(kBlanks, at), line.size());
    words.emplace_back(line.substr(at, end - at));
    at = line.find_first_not_of(kBlanks, end);
  }
  return words;
}

uint64_t parse_byte_count(const std::string& text) {
  try {
    return image::parse_size(text);
  } catch (const Error& error) {
    throw BadCommand(fmt::format("Parsing error: {} -- {}",
                                 error.kind() == ErrorKind::kLimit
                                     ? "argument too large"
                                     : "non-numeric argument, or extraneous/unrecognized suffix",
                                 text));
  }
}

std::optional<int64_t> parse_whole(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(text.c_str(), &end, 0);
  if (errno != 0 || end == text.c_str() || *end != '\0') return std::nullopt;
  return number;
}

CommandWords::CommandWords(const std::vector<std::string>& words, std::string_view options)
    : name_(words[0]) {
  bool only_arguments = options.empty();  // getopt is not asked then: "-1" is an argument
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (only_arguments || word.size() < 2 || word[0] != '-') {
      arguments_.push_back(word);
      continue;
    }
    only_arguments = word == "--";
    for (size_t at = 1; at < word.size() && !only_arguments; ++at) {
      const char letter = word[at];
      const size_t found = letter == ':' ? std::string_view::npos : options.find(letter);
      if (found == std::string_view::npos)
        throw BadUsage(fmt::format("{}: invalid option -- '{}'", name_, letter));
      if (!options.substr(found + 1).starts_with(':')) {
        given_[letter].emplace_back();
        continue;
      }
      std::string value = word.substr(at + 1);
      if (value.empty() && ++i == words.size())
        throw BadUsage(fmt::format("{}: option requires an argument -- '{}'", name_, letter));
      given_[letter].push_back(value.empty() ? words[i] : value);
      break;
    }
  }
}

std::optional<std::string> CommandWords::value(char option) const {
  const auto found = given_.find(option);
  if (found == given_.end()) return std::nullopt;
  return found->second.back();
}

std::string CommandWords::joined_values(char option) const {
  const auto found = given_.find(option);
  if (found == given_.end()) return "";
  return fmt::format("{}", fmt::join(found->second, ","));
}

std::optional<uint64_t> CommandWords::size_value(char option) const {
  const std::optional<std::string> text = value(option);
  if (!text) return std::nullopt;
  return parse_byte_count(*text);
}

std::optional<std::byte> CommandWords::pattern() const {
  const std::optional<std::string> text = value('P');
  if (!text) return std::nullopt;
  const std::optional<int64_t> byte = parse_whole(*text);
  if (!byte || *byte < 0 || *byte > 255)
    throw BadCommand(fmt::format("{} is not a valid pattern byte", *text));
  return static_cast<std::byte>(*byte);
}

void CommandWords::expect_arguments(size_t least, size_t most) const {
  if (arguments_.size() < least || arguments_.size() > most) throw BadUsage("");
}

ByteRange CommandWords::range(bool bounded) const {
  expect_arguments(2, 2);
  const ByteRange range = {.offset = size(0), .length = size(1)};
  if (range.length > kMaxRequestBytes && bounded)
    throw BadCommand(fmt::format("length cannot exceed {}, given {}", kMaxRequestBytes, arguments_[1]));
  return range;
}

ByteRange CommandWords::vector_range() const {
  expect_arguments(2, SIZE_MAX);
  ByteRange range = {.offset = size(0)};
  for (size_t i = 1; i < arguments_.size(); ++i) {
    const uint64_t length = size(i);
    if (length > kMaxRequestBytes)
      throw BadCommand(fmt::format("Argument '{}' exceeds maximum size {}", arguments_[i], kMaxRequestBytes));
    if (length > kMaxRequestBytes - range.length)
      throw BadCommand(fmt::format("The total number of bytes exceed the maximum size {}", kMaxRequestBytes));
    range.length += length;
  }
  return range;
}

}  // namespace cofre::tool
