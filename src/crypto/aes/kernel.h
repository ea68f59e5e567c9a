// What an AES kernel is: one way to compute AES on one kind of processor. One file a kernel.
//
// A kernel gets sectors with their IVs already computed (crypto/aes_sector_cipher.cc does that, with
// encrypt_blocks), so it knows nothing of IV generators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "crypto/cpu.h"

namespace cofre::crypto {

inline constexpr size_t kAesBlockBytes = 16;
// A schedule is at most this long, and aligned to 64 bytes.
inline constexpr size_t kMaxAesScheduleBytes = 2048;

// Sectors one after another. Nothing outside of [0, sectors * sector_bytes) of source and destination is
// touched.
struct AesRun {
  const uint8_t* source;
  uint8_t* destination;  // the source itself, or apart from it
  const uint8_t* ivs;    // 16 bytes a sector: CBC's IV, or XTS's tweak encrypted with the second key
  size_t sectors;
  size_t sector_bytes;  // a multiple of 512
};

struct AesKernel {
  std::string_view name;
  std::string_view description;
  CpuFeatures needs;
  size_t register_bytes;  // what one of its AES instructions works on; 0: it uses none

  size_t schedule_bytes;
  // `key_bytes` is 16, 24 or 32.
  void (*expand_key)(const uint8_t* key, size_t key_bytes, void* schedule);
  // Single blocks, each on its own (for tweaks and ESSIV): in place or apart.
  void (*encrypt_blocks)(const void* schedule, const uint8_t* source, uint8_t* destination, size_t blocks);
  void (*xts_encrypt)(const void* schedule, const AesRun& run);
  void (*xts_decrypt)(const void* schedule, const AesRun& run);
  void (*cbc_encrypt)(const void* schedule, const AesRun& run);
  void (*cbc_decrypt)(const void* schedule, const AesRun& run);

  // How many sectors the four functions above have done on the calling thread, counted inside them: proof of
  // which kernel ran.
  uint64_t (*sectors_done)();
};

extern const AesKernel kAesPortable;
#if defined(__x86_64__)
extern const AesKernel kAesNi;
extern const AesKernel kAesVaes256;
extern const AesKernel kAesVaes512;
#endif

}  // namespace cofre::crypto
