// Every cipher and mode that the AES kernels do not compute, by libgcrypt. Private to the crypto floor.
#pragma once

#include <memory>

#include "crypto/sector_cipher.h"

namespace cofre::crypto {

// As SectorCipher::create, which has checked the arguments. Throws Error kUnsupported when this libgcrypt
// lacks the cipher.
std::unique_ptr<SectorCipher> make_gcrypt_sector_cipher(const CipherSpec& spec, ConstBytes key,
                                                        uint32_t sector_bytes, uint32_t iv_units_per_sector);

}  // namespace cofre::crypto
