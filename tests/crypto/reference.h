// Sector encryption as the textbooks have it, one block after another, over a block cipher of OpenSSL or
// nettle: the truth that our own is held against.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/bytes.h"
#include "crypto/cipher_spec.h"

namespace cofre::crypto {

// ECB over any number of whole blocks.
struct ReferenceCipher {
  std::function<std::vector<std::byte>(ConstBytes)> encrypt;
  std::function<std::vector<std::byte>(ConstBytes)> decrypt;
};

// From OpenSSL (AES, CAST5, SM4) or nettle (Serpent, Twofish).
ReferenceCipher reference_cipher(CipherAlgorithm algorithm, ConstBytes key);

// What SectorCipher::encrypt must make of `plain`.
std::vector<std::byte> reference_encrypt(const CipherSpec& spec, ConstBytes key, uint32_t sector_bytes,
                                         uint32_t iv_units_per_sector, uint64_t first_sector,
                                         ConstBytes plain);

}  // namespace cofre::crypto
