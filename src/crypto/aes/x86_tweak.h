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

// The tweaks of 512 bytes. Written by halves, they are read in whole vectors a unit later at the soonest:
// before, the processor would wait for the halves to meet in the cache.
struct alignas(64) XtsUnitTweaks {
  ScalarTweak block[kXtsUnitBlocks];
};

// Stores the tweak and doubles it: times x, modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619 section 5.2). As few
// instructions as can be, for with AES-128 the processor can hardly issue them all beside the rounds.
[[gnu::always_inline]] inline void store_and_double(ScalarTweak& to, ScalarTweak& tweak) {
  uint64_t carry;
  __asm__(
      "movq %[low], %[to_low]\n\t"
      "movq %[high], %[to_high]\n\t"
      "addq %[low], %[low]\n\t"
      "adcq %[high], %[high]\n\t"
      "sbbl %k[carry], %k[carry]\n\t"
      "andl $0x87, %k[carry]\n\t"
      "xorq %[carry], %[low]"
      : [low] "+r"(tweak.low), [high] "+r"(tweak.high), [carry] "=&r"(carry), [to_low] "=m"(to.low),
        [to_high] "=m"(to.high)
      :
      : "cc");
}

}  // namespace cofre::crypto
