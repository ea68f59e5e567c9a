// What bytes look like that should be cipher text: cipher text of a sound cipher cannot be told from
// uniformly random bytes, plain text nearly always can. Any lane; nothing here is secret.
//
// Each test has a bound for the probability that uniformly random bytes fail it (docs/audit.md derives them,
// tests/crypto/sector_look_test.cc computes the first one exactly). Plain text that is as good as random,
// such as what a good compressor makes, passes them all where there is little of it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/bytes.h"

namespace cofre::crypto {

enum class Look : uint8_t {
  kRandom,       // as cipher text
  kZero,         // all bytes are zero
  kFrequencies,  // some bytes come too often
  kText,         // a long run of printable ASCII
  kRun,          // a long run of one byte
};
// "byte frequencies", "text", "a run of one byte"; "zeros", "random".
std::string_view look_name(Look look) noexcept;

// The sum of the squared frequencies of the 512 bytes of a sector; from here on they are no cipher text:
// random bytes reach it with a probability below 1e-22.
inline constexpr uint32_t kTooManySquares = 3200;
// So many bytes of printable ASCII (and tab, line feed, carriage return) behind each other: below 1e-19 for a
// sector.
inline constexpr size_t kTextRunBytes = 52;
// So many equal bytes behind each other: 2e-19 for a sector.
inline constexpr size_t kEqualRunBytes = 10;

// The frequencies of many sectors together, which show what those of one do not: compressed plain text is
// slightly uneven.
class Frequencies {
 public:
  using OfSector = std::array<uint16_t, 256>;
  void add(const OfSector& counts) noexcept;
  void clear() noexcept { *this = {}; }
  uint64_t bytes() const noexcept { return bytes_; }
  // Pearson's chi-square against even frequencies, 255 degrees of freedom.
  double chi_square() const noexcept;

 private:
  std::array<uint32_t, 256> counts_ = {};
  uint64_t bytes_ = 0;
};
// Of 64 KiB and more; random bytes reach it with a probability below 1e-30.
inline constexpr double kTooUneven = 640;

// Of up to 512 bytes. The frequencies count only where there are 512, and only if there is `together`, to
// which those of a sector that looks random are added: a mode without chaining (ECB) repeats what the plain
// text repeats.
Look look_at(ConstBytes bytes, Frequencies* together) noexcept;

// Whether one of the 16-byte blocks of the sector occurs twice: what only a mode without chaining makes (else
// below 1e-35).
bool repeats_a_block(ConstBytes sector) noexcept;

}  // namespace cofre::crypto
