#include "crypto/random.h"

#include <openssl/rand.h>

#include <algorithm>
#include <climits>

#include "base/error.h"

namespace cofre::crypto {

void random_bytes(Bytes out) {
  while (!out.empty()) {
    const size_t part = std::min<size_t>(out.size(), INT_MAX);
    if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(out.data()), static_cast<int>(part)) != 1)
      fail(ErrorKind::kIo, "the random generator of OpenSSL gives no bytes: is /dev/urandom there?");
    out = out.subspan(part);
  }
}

}  // namespace cofre::crypto
