// XTS tweaks made by the integer units, which AES leaves idle: in vector registers they would take the ports
// that compute AES. Private to the x86 kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "crypto/aes/kernel.h"

namespace cofre::crypto {

struct ScalarTweak {
  uint64_t low;
  uint64_t high;
};

inline constexpr size_t kXtsUnitBytes = 512;
inline constexpr size_t kXtsUnitBlocks = kXtsUnitBytes / kAesBlockBytes;

// The tweaks of 512 bytes. Written by halves, they are read in whole vectors no sooner than a unit later:
// before, the processor would wait for the halves to meet in the cache.
struct alignas(64) XtsUnitTweaks {
  ScalarTweak block[kXtsUnitBlocks];
};

// The tweaks of the sectors of a run, unit after unit.
struct XtsTweakSource {
  ScalarTweak next;
  const uint8_t* iv;       // of the sector of `next`
  const uint8_t* last_iv;  // of the run
  size_t sector_bytes;
  size_t left;  // bytes of that sector, from `next` on
};

// After a unit. Past the run's end the last sector is repeated, for nothing.
[[gnu::always_inline]] inline void finish_unit(XtsTweakSource& source) {
  source.left -= kXtsUnitBytes;
  if (source.left == 0) {
    if (source.iv < source.last_iv) source.iv += kAesBlockBytes;
    source.next = {load_le<uint64_t>(source.iv), load_le<uint64_t>(source.iv + 8)};
    source.left = source.sector_bytes;
  }
  // Left to itself, the compiler keeps the two halves in a vector register.
  __asm__("" : "+r"(source.next.low), "+r"(source.next.high));
}

// Stores the tweak and doubles it: times x, modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
[[gnu::always_inline]] inline void store_and_double(ScalarTweak& to, ScalarTweak& tweak) {
  uint64_t carry;
  __asm__(
      "movq %[low], %[to_low]\n\t"
      "movq %[high], %[to_high]\n\t"
      "movq %[high], %[carry]\n\t"
      "sarq $63, %[carry]\n\t"
      "andl $0x87, %k[carry]\n\t"
      "addq %[low], %[low]\n\t"
      "adcq %[high], %[high]\n\t"
      "xorq %[carry], %[low]"
      : [low] "+r"(tweak.low), [high] "+r"(tweak.high), [carry] "=&r"(carry), [to_low] "=m"(to.low),
        [to_high] "=m"(to.high)
      :
      : "cc");
}

}  // namespace cofre::crypto
