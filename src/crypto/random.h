// Random bytes fit for keys. Any lane.
#pragma once

#include "base/bytes.h"

namespace cofre::crypto {

// Fills `out` from OpenSSL's private generator. Throws Error kIo when the system has no randomness to give.
void random_bytes(Bytes out);

}  // namespace cofre::crypto
