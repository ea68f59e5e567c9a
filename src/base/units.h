// Offsets that must not be mixed up: where the guest sees a byte, and where it rests in the host file.
#pragma once

#include <compare>
#include <cstdint>

namespace cofre {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kTiB = 1024 * kGiB;

// The sector that ciphers number and formats count in.
inline constexpr uint32_t kSectorBytes = 512;

template <typename Space>
struct OffsetIn {
  uint64_t bytes = 0;

  constexpr auto operator<=>(const OffsetIn&) const = default;
  constexpr OffsetIn operator+(uint64_t n) const { return OffsetIn{bytes + n}; }
  constexpr OffsetIn operator-(uint64_t n) const { return OffsetIn{bytes - n}; }
  constexpr uint64_t operator-(OffsetIn other) const { return bytes - other.bytes; }
  constexpr OffsetIn& operator+=(uint64_t n) {
    bytes += n;
    return *this;
  }
};

using GuestOffset = OffsetIn<struct GuestSpace>;  // a byte of the virtual disk
using HostOffset = OffsetIn<struct HostSpace>;    // a byte of the image file

}  // namespace cofre
