// Twofish with a 192-bit key, which libgcrypt lacks and QEMU offers, by nettle. Private to the crypto floor.
#pragma once

#include <memory>

#include "crypto/sector_cipher.h"

namespace cofre::crypto {

// As SectorCipher::create, which has checked the arguments; the algorithm is twofish192.
std::unique_ptr<SectorCipher> make_nettle_sector_cipher(const CipherSpec& spec, ConstBytes key,
                                                        uint32_t sector_bytes, uint32_t iv_units_per_sector);

}  // namespace cofre::crypto
