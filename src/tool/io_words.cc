#include "tool/io_words.h"

#include <fmt/format.h>

#include <charconv>

#include "base/error.h"
#include "image/size.h"

namespace cofre::tool {
namespace {

uint64_t size_of(const std::string& text) {
  try {
    return image::parse_size(text);
  } catch (const Error& error) {
    throw BadCommand(error.what());
  }
}

}  // namespace

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

CommandWords::CommandWords(const std::vector<std::string>& words, std::string_view options)
    : name_(words[0]) {
  bool only_arguments = false;
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
        throw BadCommand(fmt::format("{}: invalid option -- '{}'", name_, letter));
      if (!options.substr(found + 1).starts_with(':')) {
        given_[letter] = "";
        continue;
      }
      std::string value = word.substr(at + 1);
      if (value.empty() && ++i == words.size())
        throw BadCommand(fmt::format("{}: option requires an argument -- '{}'", name_, letter));
      given_[letter] = value.empty() ? words[i] : value;
      break;
    }
  }
}

std::optional<std::string> CommandWords::value(char option) const {
  const auto found = given_.find(option);
  if (found == given_.end()) return std::nullopt;
  return found->second;
}

uint64_t CommandWords::size(size_t argument) const {
  return size_of(arguments_[argument]);
}

std::optional<uint64_t> CommandWords::size_value(char option) const {
  const std::optional<std::string> text = value(option);
  if (!text) return std::nullopt;
  return size_of(*text);
}

std::optional<std::byte> CommandWords::pattern() const {
  const std::optional<std::string> text = value('P');
  if (!text) return std::nullopt;
  const bool hex = text->starts_with("0x") || text->starts_with("0X");
  const bool octal = !hex && text->size() > 1 && text->starts_with('0');
  const char* const end = text->data() + text->size();
  unsigned byte = 0;
  const auto [stop, error] = std::from_chars(text->data() + (hex ? 2 : 0), end, byte,
                                             hex     ? 16
                                             : octal ? 8
                                                     : 10);
  if (error != std::errc() || stop != end || byte > 255)
    throw BadCommand(fmt::format("{} is not a valid pattern byte", *text));
  return static_cast<std::byte>(byte);
}

void CommandWords::expect_arguments(size_t least, size_t most) const {
  if (arguments_.size() >= least && arguments_.size() <= most) return;
  const std::string expected = least == most ? fmt::format("{}", least) : fmt::format("at least {}", least);
  throw BadCommand(fmt::format("bad argument count {} to {}, expected {} argument{}", arguments_.size(),
                               name_, expected, least == 1 ? "" : "s"));
}

}  // namespace cofre::tool
