// The file between write_vectors and check_vectors: records, little-endian, until its end.
#pragma once

#include <cstdint>

namespace cofre::crypto {

// Then follow: the key, the tweak key (of CBC: the same key), 16 bytes a sector of IVs as numbers, the same
// encrypted with the tweak key, the plain text, and its encryption (XTS takes the encrypted IVs, CBC the
// plain ones).
struct VectorHeader {
  uint32_t is_xts;
  uint32_t key_bytes;
  uint32_t sector_bytes;
  uint32_t sectors;
};

}  // namespace cofre::crypto
