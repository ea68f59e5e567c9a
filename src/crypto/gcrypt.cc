#include "crypto/gcrypt.h"

#include "base/error.h"

namespace cofre::crypto {

void ensure_gcrypt() {
  static const bool ready = [] {
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) return true;
    if (gcry_check_version(GCRYPT_VERSION) == nullptr)
      fail(ErrorKind::kUnsupported, "libgcrypt {} is older than {}, which this program needs: update it",
           gcry_check_version(nullptr), GCRYPT_VERSION);
    // Keys rest in SecretBytes; libgcrypt's own handles wipe themselves when closed.
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    return true;
  }();
  static_cast<void>(ready);
}

}  // namespace cofre::crypto
