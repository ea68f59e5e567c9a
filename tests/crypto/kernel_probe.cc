// Encrypts and decrypts a few sectors through SectorCipher, then prints a line "kernel sectors" for every
// kernel that did some. An Error goes to standard error, with exit status 2.
#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "crypto/aes/select.h"
#include "crypto/sector_cipher.h"

int main() {
  using namespace cofre::crypto;
  try {
    for (const CipherMode mode : {CipherMode::xts, CipherMode::cbc}) {
      const CipherSpec spec{CipherAlgorithm::aes128, mode, IvGenerator::plain64, DigestAlgorithm::sha256};
      std::vector<std::byte> key(spec.key_bytes(), std::byte{7});
      std::vector<std::byte> sectors(3 * 512);
      const auto cipher = SectorCipher::create(spec, key);
      cipher->encrypt(0, sectors, sectors);
      cipher->decrypt(0, sectors, sectors);
    }
  } catch (const cofre::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  for (const AesKernel* kernel : aes_kernels())
    if (kernel->sectors_done() != 0)
      std::printf("%s %llu\n", std::string(kernel->name).c_str(),
                  static_cast<unsigned long long>(kernel->sectors_done()));
  return 0;
}
