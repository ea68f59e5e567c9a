// PBKDF2 (RFC 8018 section 5.2) with HMAC, and how many iterations of it fill a given time. Any lane; slow by
// design.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "crypto/digest.h"

namespace cofre::crypto {

// Derives `out` from the passphrase. Throws Error kInvalidArgument for zero iterations or an empty `out`,
// kUnsupported when the digest is not available.
void pbkdf2(DigestAlgorithm algorithm, ConstBytes passphrase, ConstBytes salt, uint32_t iterations,
            Bytes out);

inline constexpr uint64_t kMinPbkdf2Iterations = 1000;

// The iterations that make the derivation of `key_bytes` bytes take about `target` on this machine, from a
// measurement of some hundredths of a second. At least kMinPbkdf2Iterations, at most UINT32_MAX.
uint64_t pbkdf2_iterations_for(DigestAlgorithm algorithm, size_t key_bytes, std::chrono::milliseconds target);

}  // namespace cofre::crypto
