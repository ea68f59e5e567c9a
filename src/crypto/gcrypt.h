// The start of libgcrypt, which must come before any other call to it. Private to the crypto floor.
#pragma once

#include <gcrypt.h>

namespace cofre::crypto {

// Initializes libgcrypt once, unless the program has done so itself. Throws Error kUnsupported when the
// library is older than the one compiled against. Any lane.
void ensure_gcrypt();

}  // namespace cofre::crypto
