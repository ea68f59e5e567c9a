// XTS and CBC with AES, by one of the kernels. Private to the crypto floor and its tests, which choose a
// kernel by hand.
#pragma once

#include <memory>

#include "crypto/aes/kernel.h"
#include "crypto/sector_cipher.h"

namespace cofre::crypto {

// As SectorCipher::create, which has checked the arguments; spec is AES in XTS or CBC. The processor has what
// the kernel needs.
std::unique_ptr<SectorCipher> make_aes_sector_cipher(const AesKernel& kernel, const CipherSpec& spec,
                                                     ConstBytes key, uint32_t sector_bytes,
                                                     uint32_t iv_units_per_sector);

}  // namespace cofre::crypto
