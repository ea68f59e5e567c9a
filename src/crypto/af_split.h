// The anti-forensic splitter of LUKS: a key becomes `stripes` times as many bytes, all of which are needed to
// get it back (LUKS On-Disk Format Specification 1.2.3, section 2.4). Any lane.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "crypto/digest.h"

namespace cofre::crypto {

// Both throw Error kInvalidArgument when the key is empty, `stripes` is zero, or the material is not exactly
// stripes * key bytes long.
void af_split(DigestAlgorithm algorithm, ConstBytes key, uint32_t stripes, Bytes out);
void af_merge(DigestAlgorithm algorithm, ConstBytes material, uint32_t stripes, Bytes key);

}  // namespace cofre::crypto
