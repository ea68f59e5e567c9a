// The processor's own limit for AES: its AES instructions alone, on independent registers, without memory.
// No implementation of AES with these instructions can be faster.
#pragma once

#include <cstddef>

namespace cofre::crypto {

// Encrypts about as many blocks as `bytes` holds, in registers of `register_bytes` (see AesKernel), `rounds`
// instructions a block, and gives the bytes really encrypted: at least `bytes`, and 0 when this build knows
// no AES instructions of that width. The processor must have them.
size_t run_aes_instructions(size_t register_bytes, int rounds, size_t bytes);

}  // namespace cofre::crypto
