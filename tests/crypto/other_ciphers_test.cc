// The ciphers that libraries compute, against another library: Serpent, Twofish, CAST5, SM4, and AES in ECB
// and CTR.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "crypto/reference.h"
#include "crypto/sector_cipher.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

std::vector<CipherSpec> all_specs() {
  std::vector<CipherSpec> specs;
  for (const auto algorithm :
       {CipherAlgorithm::aes128, CipherAlgorithm::aes192, CipherAlgorithm::aes256,
        CipherAlgorithm::serpent128, CipherAlgorithm::serpent192, CipherAlgorithm::serpent256,
        CipherAlgorithm::twofish128, CipherAlgorithm::twofish192, CipherAlgorithm::twofish256,
        CipherAlgorithm::cast5_128, CipherAlgorithm::sm4})
    for (const auto mode : {CipherMode::ecb, CipherMode::cbc, CipherMode::xts, CipherMode::ctr})
      for (const auto iv : {IvGenerator::none, IvGenerator::plain, IvGenerator::plain64, IvGenerator::essiv})
        for (const auto essiv_digest : {DigestAlgorithm::sha256, DigestAlgorithm::md5}) {
          const CipherSpec spec{algorithm, mode, iv, essiv_digest};
          if (iv != IvGenerator::essiv && essiv_digest != DigestAlgorithm::sha256) continue;
          try {
            spec.validate();
          } catch (const Error&) {
            continue;
          }
          specs.push_back(spec);
        }
  return specs;
}

class EveryCipher : public testing::TestWithParam<CipherSpec> {};

TEST_P(EveryCipher, AgreesWithAnotherLibrary) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const uint32_t sector_bytes : {512u, 4096u}) {
    const uint32_t iv_units = sector_bytes == 4096 ? 8 : 1;
    const size_t sectors = 70;  // more than a batch of IVs
    const uint64_t first = random() % 4 == 0 ? UINT32_MAX - 10 : random();
    const ByteVector key = random_bytes(random, GetParam().key_bytes());
    const ByteVector plain = random_bytes(random, sectors * sector_bytes);
    const ByteVector expected = reference_encrypt(GetParam(), key, sector_bytes, iv_units, first, plain);
    const auto cipher = SectorCipher::create(GetParam(), key, sector_bytes, iv_units);

    ByteVector text(plain.size()), back(plain.size());
    cipher->encrypt(first, plain, text);
    ASSERT_EQ(text, expected);
    cipher->decrypt(first, text, back);
    ASSERT_EQ(back, plain);
    cipher->encrypt(first, back, back);
    ASSERT_EQ(back, expected);
    cipher->decrypt(first, back, back);
    ASSERT_EQ(back, plain);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryCipher, testing::ValuesIn(all_specs()), [](const auto& info) {
  std::string name = info.param.to_string();
  std::ranges::replace_if(name, [](char c) { return c == '-' || c == ':'; }, '_');
  return name;
});

// A block in ECB, from the papers and standards that define the ciphers.
TEST(OtherCiphers, PublishedVectors) {
  const struct {
    CipherAlgorithm algorithm;
    const char* key;
    const char* plain;
    const char* text;
  } vectors[] = {
      // Twofish paper, appendix A.1 (with k = 128, 192, 256).
      {CipherAlgorithm::twofish128, "00000000000000000000000000000000", "00000000000000000000000000000000",
       "9f589f5cf6122c32b6bfec2f2ae8c35a"},
      {CipherAlgorithm::twofish192, "0123456789abcdeffedcba98765432100011223344556677",
       "00000000000000000000000000000000", "cfd1d2e5a9be9cdf501f13b892bd2248"},
      {CipherAlgorithm::twofish256, "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
       "00000000000000000000000000000000", "37527be0052334b89f0cfccae87cfa20"},
      // RFC 2144 appendix B.1.
      {CipherAlgorithm::cast5_128, "0123456712345678234567893456789a", "0123456789abcdef",
       "238b4fe5847e44b2"},
      // GB/T 32907-2016 appendix A.
      {CipherAlgorithm::sm4, "0123456789abcdeffedcba9876543210", "0123456789abcdeffedcba9876543210",
       "681edf34d206965e86b3e94f536e4246"},
      // FIPS 197 appendix C.1.
      {CipherAlgorithm::aes128, "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff",
       "69c4e0d86a7b0430d8cdb78070b4c55a"},
  };
  for (const auto& vector : vectors) {
    const ByteVector plain = from_hex(vector.plain);
    ByteVector sector(512);
    std::ranges::copy(plain, sector.begin());
    const CipherSpec spec{vector.algorithm, CipherMode::ecb, IvGenerator::none, DigestAlgorithm::sha256};
    SectorCipher::create(spec, from_hex(vector.key))->encrypt(0, sector, sector);
    EXPECT_EQ(to_hex(ConstBytes(sector).first(plain.size())), vector.text)
        << cipher_algorithm_name(vector.algorithm);
  }
}

}  // namespace
}  // namespace cofre::crypto
