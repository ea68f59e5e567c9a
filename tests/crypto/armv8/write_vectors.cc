// Writes runs of sectors encrypted by OpenSSL, for a program of another architecture to check (vectors.h).
#include <cstdio>
#include <string>

#include "crypto/armv8/vectors.h"
#include "crypto/reference.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

void put(FILE* file, ConstBytes bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size())
    throw std::runtime_error("fwrite fails");
}

// The IVs of plain64, as numbers and as the mode wants them.
ByteVector numbers(uint64_t first, size_t sectors) {
  ByteVector ivs(16 * sectors);
  for (size_t i = 0; i < sectors; ++i) store_le<uint64_t>(ivs.data() + 16 * i, first + i);
  return ivs;
}

void put_run(FILE* file, std::mt19937_64& random, CipherAlgorithm algorithm, CipherMode mode,
             uint32_t sector_bytes, size_t sectors) {
  const CipherSpec spec{algorithm, mode, IvGenerator::plain64, DigestAlgorithm::sha256};
  const size_t one_key = cipher_key_bytes(algorithm);
  const ByteVector key = random_bytes(random, spec.key_bytes());
  const ByteVector tweak_key(key.end() - static_cast<ptrdiff_t>(one_key), key.end());
  const ByteVector plain = random_bytes(random, sectors * sector_bytes);
  const uint64_t first = random() % 2 == 0 ? random() : UINT64_MAX - random() % 8;
  const ByteVector plain_ivs = numbers(first, sectors);
  const ByteVector encrypted_ivs = reference_cipher(algorithm, tweak_key).encrypt(plain_ivs);
  const VectorHeader header = {mode == CipherMode::xts, static_cast<uint32_t>(one_key), sector_bytes,
                               static_cast<uint32_t>(sectors)};
  put(file, std::as_bytes(std::span(&header, 1)));
  put(file, ConstBytes(key).first(one_key));
  put(file, tweak_key);
  put(file, plain_ivs);
  put(file, encrypted_ivs);
  put(file, plain);
  put(file, reference_encrypt(spec, key, sector_bytes, 1, first, plain));
}

void put_all(FILE* file, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (const auto algorithm : {CipherAlgorithm::aes128, CipherAlgorithm::aes192, CipherAlgorithm::aes256})
    for (const auto mode : {CipherMode::xts, CipherMode::cbc}) {
      for (size_t sectors = 1; sectors <= 20; ++sectors) put_run(file, random, algorithm, mode, 512, sectors);
      for (const size_t sectors : {1, 3, 9}) put_run(file, random, algorithm, mode, 4096, sectors);
    }
}

}  // namespace
}  // namespace cofre::crypto

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const uint64_t seed = cofre::test_seed();
  std::printf("COFRE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::FILE* const file = std::fopen(argv[1], "wb");
  if (file == nullptr) return 2;
  cofre::crypto::put_all(file, seed);
  return std::fclose(file) == 0 ? 0 : 2;
}
