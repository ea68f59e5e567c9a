// The key schedule that the x86 kernels share: round keys as the AES instructions want them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "crypto/aes/kernel.h"
#include "crypto/aes/key_expansion.h"

namespace cofre::crypto {

struct alignas(64) X86AesSchedule {
  // Round keys in the order of use. Those for decryption fit the equivalent inverse cipher (FIPS 197
  // section 5.3.5).
  uint8_t encrypt[kMaxAesRounds + 1][16];
  uint8_t decrypt[kMaxAesRounds + 1][16];
  int rounds;
};
static_assert(sizeof(X86AesSchedule) <= kMaxAesScheduleBytes);

// An AesKernel::expand_key. Needs the feature aes.
void expand_x86_key(const uint8_t* key, size_t key_bytes, void* schedule);

}  // namespace cofre::crypto
