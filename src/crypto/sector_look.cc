#include "crypto/sector_look.h"

#include <algorithm>
#include <cstring>

#include "base/units.h"

namespace cofre::crypto {
namespace {

constexpr auto kPrintable = [] {
  std::array<bool, 256> table{};
  for (unsigned byte = 0x20; byte < 0x7f; ++byte) table[byte] = true;
  for (const unsigned byte : {'\t', '\n', '\r'}) table[byte] = true;
  return table;
}();

bool printable(std::byte byte) noexcept {
  return kPrintable[std::to_integer<uint8_t>(byte)];
}

bool all_zero(ConstBytes bytes) noexcept {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// A run so long covers a multiple of kTextStep whose neighbours of that distance are printable too, so most
// bytes need not be looked at.
constexpr size_t kTextStep = 16;
static_assert(kTextRunBytes >= 3 * kTextStep);

template <typename Belongs>
size_t run_around(ConstBytes bytes, size_t at, Belongs belongs) noexcept {
  size_t begin = at;
  while (begin > 0 && belongs(bytes[begin - 1])) --begin;
  size_t end = at;
  while (end < bytes.size() && belongs(bytes[end])) ++end;
  return end - begin;
}

bool has_text(ConstBytes bytes) noexcept {
  for (size_t at = 0; at + 2 * kTextStep < bytes.size(); at += kTextStep) {
    if (!printable(bytes[at]) || !printable(bytes[at + kTextStep]) || !printable(bytes[at + 2 * kTextStep]))
      continue;
    if (run_around(bytes, at, printable) >= kTextRunBytes) return true;
  }
  return false;
}

constexpr size_t kEqualStep = 4;
static_assert(kEqualRunBytes >= 2 * kEqualStep);

bool has_equal_run(ConstBytes bytes) noexcept {
  for (size_t at = 0; at + kEqualStep < bytes.size(); at += kEqualStep) {
    if (bytes[at] != bytes[at + kEqualStep]) continue;
    const std::byte value = bytes[at];
    if (run_around(bytes, at, [value](std::byte byte) { return byte == value; }) >= kEqualRunBytes)
      return true;
  }
  return false;
}

uint32_t sum_of_squares(const Frequencies::OfSector& counts) noexcept {
  uint32_t sum = 0;
  for (const uint32_t count : counts) sum += count * count;
  return sum;
}

}  // namespace

std::string_view look_name(Look look) noexcept {
  switch (look) {
    case Look::kZero:
      return "zeros";
    case Look::kFrequencies:
      return "byte frequencies";
    case Look::kText:
      return "text";
    case Look::kRun:
      return "a run of one byte";
    case Look::kRandom:
      break;
  }
  return "random";
}

Look look_at(ConstBytes bytes, Frequencies* together) noexcept {
  if (all_zero(bytes)) return Look::kZero;
  if (has_text(bytes)) return Look::kText;
  if (has_equal_run(bytes)) return Look::kRun;
  if (together == nullptr || bytes.size() != kSectorBytes) return Look::kRandom;
  Frequencies::OfSector counts{};
  for (const std::byte byte : bytes) ++counts[std::to_integer<uint8_t>(byte)];
  if (sum_of_squares(counts) >= kTooManySquares) return Look::kFrequencies;
  together->add(counts);
  return Look::kRandom;
}

bool repeats_a_block(ConstBytes sector) noexcept {
  constexpr size_t kBlockBytes = 16;
  constexpr size_t kBlocks = kSectorBytes / kBlockBytes;
  if (sector.size() != kSectorBytes) return false;
  std::array<uint32_t, kBlocks> starts;
  for (size_t i = 0; i < kBlocks; ++i) std::memcpy(&starts[i], sector.data() + i * kBlockBytes, 4);
  unsigned equal = 0;
  for (const uint32_t a : starts)
    for (const uint32_t b : starts) equal += a == b ? 1 : 0;
  if (equal == kBlocks) return false;  // each is equal to itself only
  for (size_t i = 0; i < kBlocks; ++i)
    for (size_t k = i + 1; k < kBlocks; ++k)
      if (std::memcmp(sector.data() + i * kBlockBytes, sector.data() + k * kBlockBytes, kBlockBytes) == 0)
        return true;
  return false;
}

void Frequencies::add(const OfSector& counts) noexcept {
  for (size_t i = 0; i < counts.size(); ++i) counts_[i] += counts[i];
  bytes_ += kSectorBytes;
}

double Frequencies::chi_square() const noexcept {
  const double even = static_cast<double>(bytes_) / 256;
  double sum = 0;
  for (const uint32_t count : counts_) sum += (count - even) * (count - even);
  return bytes_ == 0 ? 0 : sum / even;
}

}  // namespace cofre::crypto
