// Sector numbers as IVs, before any ESSIV encryption. Private to the crypto floor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/bytes.h"
#include "crypto/cipher_spec.h"

namespace cofre::crypto {

// Writes `count` IVs of `iv_bytes` (8 or 16) each: those of the numbers first, first + step, ...
inline void fill_sector_ivs(IvGenerator generator, uint64_t first, uint64_t step, size_t count,
                            size_t iv_bytes, void* ivs) noexcept {
  auto* iv = static_cast<std::byte*>(ivs);
  const uint64_t mask = generator == IvGenerator::plain ? UINT32_MAX : UINT64_MAX;
  for (size_t i = 0; i < count; ++i, iv += iv_bytes) {
    store_le<uint64_t>(iv, (first + i * step) & mask);
    if (iv_bytes == 16) store_le<uint64_t>(iv + 8, 0);
  }
}

}  // namespace cofre::crypto
