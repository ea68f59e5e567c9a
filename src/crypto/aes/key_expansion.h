// The key expansion of FIPS 197 section 5.2, given a way to compute SubWord() in constant time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace cofre::crypto {

inline constexpr int kMaxAesRounds = 14;

// 10, 12 or 14.
inline int aes_rounds(size_t key_bytes) noexcept {
  return static_cast<int>(key_bytes / 4 + 6);
}

// Fills round keys 0 to aes_rounds(key_bytes), 16 bytes each. A word is four bytes, the first one lowest.
inline void expand_aes_key(const uint8_t* key, size_t key_bytes, uint32_t (*sub_word)(uint32_t),
                           uint8_t round_keys[][16]) noexcept {
  const size_t key_words = key_bytes / 4;
  const size_t words = 4 * (static_cast<size_t>(aes_rounds(key_bytes)) + 1);
  uint8_t* out = round_keys[0];
  uint32_t round_constant = 1;
  for (size_t i = 0; i < words; ++i) {
    if (i < key_words) {
      store_le<uint32_t>(out + 4 * i, load_le<uint32_t>(key + 4 * i));
      continue;
    }
    uint32_t word = load_le<uint32_t>(out + 4 * (i - 1));
    if (i % key_words == 0) {
      word = sub_word((word >> 8) | (word << 24)) ^ round_constant;
      round_constant = (round_constant << 1) ^ ((round_constant >> 7) * 0x11b);
    } else if (key_words > 6 && i % key_words == 4) {
      word = sub_word(word);
    }
    store_le<uint32_t>(out + 4 * i, load_le<uint32_t>(out + 4 * (i - key_words)) ^ word);
  }
}

}  // namespace cofre::crypto
