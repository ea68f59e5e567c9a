#include "image/size.h"

#include <array>
#include <charconv>
#include <optional>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::image {
namespace {

constexpr std::string_view kSuffixes = "bkmgtpe";

[[noreturn]] void bad_size(std::string_view text, std::string_view what) {
  fail(ErrorKind::kInvalidArgument,
       "'{}' is no {}: write bytes, or a number with a suffix k, M, G, T, P or E (powers of 1024)", text,
       what);
}

// The power of 1024 that the suffix stands for, or nothing.
std::optional<unsigned> suffix_power(std::string_view suffix) {
  if (suffix.empty()) return 0;
  if (suffix.size() != 1) return std::nullopt;
  const char lower = static_cast<char>(suffix[0] | 0x20);
  const size_t at = kSuffixes.find(lower);
  if (at == std::string_view::npos) return std::nullopt;
  return static_cast<unsigned>(at);
}

// The digits after the point, scaled: 0.digits * 1024^power to the nearest byte, exact for up to 18 digits.
uint64_t fraction_bytes(std::string_view digits, unsigned power) {
  __extension__ using Wide = unsigned __int128;
  Wide value = 0;
  Wide scale = 1;
  for (const char digit : digits.substr(0, 18)) {
    value = value * 10 + static_cast<unsigned>(digit - '0');
    scale *= 10;
  }
  return static_cast<uint64_t>(((value << (10 * power)) + scale / 2) / scale);
}

std::string_view strip_leading(std::string_view text) {
  while (!text.empty() && (text[0] == ' ' || text[0] == '\t')) text.remove_prefix(1);
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  return text;
}

std::string_view take_digits(std::string_view& rest) {
  size_t count = 0;
  while (count < rest.size() && rest[count] >= '0' && rest[count] <= '9') ++count;
  const std::string_view digits = rest.substr(0, count);
  rest.remove_prefix(count);
  return digits;
}

// The number itself; `rest` moves on to what follows it. Nothing: not a number, or too large.
std::optional<uint64_t> take_whole(std::string_view& rest, int base) {
  uint64_t whole = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), whole, base);
  if (error != std::errc()) return std::nullopt;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  return whole;
}

}  // namespace

uint64_t parse_size(std::string_view text, std::string_view what) {
  std::string_view rest = strip_leading(text);
  const bool hex = rest.starts_with("0x") || rest.starts_with("0X");
  if (hex) rest.remove_prefix(2);
  if (rest.empty() || rest[0] == '+' || rest[0] == '-') bad_size(text, what);
  const std::string_view number = rest;
  const std::optional<uint64_t> whole = take_whole(rest, hex ? 16 : 10);
  if (!whole) {
    if (rest[0] < '0' || rest[0] > '9' || hex) bad_size(text, what);
    fail(ErrorKind::kLimit, "{} '{}' is too large: the most is {} bytes", what, text, kMaxSizeBytes);
  }

  std::string_view fraction;
  if (!hex && rest.starts_with('.')) {
    rest.remove_prefix(1);
    fraction = take_digits(rest);
  }
  const std::optional<unsigned> power = suffix_power(rest);
  if (!power || number.empty()) bad_size(text, what);
  if (*power == 0 && fraction.find_first_not_of('0') != std::string_view::npos)
    fail(ErrorKind::kInvalidArgument, "'{}' is no {}: there are no fractions of a byte", text, what);

  const std::optional<uint64_t> scaled = checked_mul<uint64_t>(*whole, uint64_t{1} << (10 * *power));
  const std::optional<uint64_t> sum =
      scaled ? checked_add<uint64_t>(*scaled, fraction_bytes(fraction, *power)) : std::nullopt;
  if (!sum || *sum > kMaxSizeBytes)
    fail(ErrorKind::kLimit, "{} '{}' is too large: the most is {} bytes", what, text, kMaxSizeBytes);
  return *sum;
}

std::string format_size(uint64_t bytes) {
  constexpr std::array<std::string_view, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  // The unit changes at 1000, not 1024, so that three digits always suffice.
  size_t unit = 0;
  auto value = static_cast<double>(bytes);
  while (unit + 1 < kUnits.size() && value >= 1000) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.3g} {}", value, kUnits[unit]);
}

std::string format_size_exact(uint64_t bytes) {
  constexpr std::array<std::string_view, 7> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  while (unit + 1 < kUnits.size() && (bytes >> (10 * (unit + 1))) != 0) ++unit;
  const double value = static_cast<double>(bytes) / static_cast<double>(uint64_t{1} << (10 * unit));
  std::string number = fmt::format("{:.3f}", value);
  if (number.ends_with(".000")) number.resize(number.size() - 4);
  return fmt::format("{} {}", number, kUnits[unit]);
}

}  // namespace cofre::image
