#include "crypto/kdf.h"

#include <gcrypt.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

std::string derive(DigestAlgorithm algorithm, std::string_view passphrase, std::string_view salt,
                   uint32_t iterations, size_t bytes) {
  ByteVector out(bytes);
  pbkdf2(algorithm, bytes_of(passphrase), bytes_of(salt), iterations, out);
  return to_hex(out);
}

TEST(Pbkdf2, Rfc6070) {
  using enum DigestAlgorithm;
  EXPECT_EQ(derive(sha1, "password", "salt", 1, 20), "0c60c80f961f0e71f3a9b524af6012062fe037a6");
  EXPECT_EQ(derive(sha1, "password", "salt", 2, 20), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
  EXPECT_EQ(derive(sha1, "password", "salt", 4096, 20), "4b007901b765489abead49d926f721d065a429c1");
  EXPECT_EQ(derive(sha1, "passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096, 25),
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
  EXPECT_EQ(derive(sha1, std::string_view("pass\0word", 9), std::string_view("sa\0lt", 5), 4096, 16),
            "56fa6aa75548099dcc37d7f03425e0c3");
}

// RFC 7914 section 11.
TEST(Pbkdf2, Rfc7914) {
  EXPECT_EQ(derive(DigestAlgorithm::sha256, "passwd", "salt", 1, 64),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783");
}

TEST(Pbkdf2, AgreesWithLibgcrypt) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto algorithm :
       {DigestAlgorithm::md5, DigestAlgorithm::sha1, DigestAlgorithm::sha224, DigestAlgorithm::sha256,
        DigestAlgorithm::sha384, DigestAlgorithm::sha512, DigestAlgorithm::ripemd160})
    for (int round = 0; round < 20; ++round) {
      // Passphrases on both sides of a block of HMAC; libgcrypt takes neither empty.
      const ByteVector passphrase = random_bytes(random, 1 + random() % 300);
      const ByteVector salt = random_bytes(random, 1 + random() % 100);
      const auto iterations = static_cast<uint32_t>(1 + random() % 50);
      ByteVector expected(1 + random() % 150);
      ByteVector got(expected.size());
      ASSERT_EQ(gcry_kdf_derive(passphrase.data(), passphrase.size(), GCRY_KDF_PBKDF2,
                                gcry_md_map_name(std::string(digest_name(algorithm)).c_str()), salt.data(),
                                salt.size(), iterations, expected.size(), expected.data()),
                0u);
      pbkdf2(algorithm, passphrase, salt, iterations, got);
      EXPECT_EQ(got, expected) << digest_name(algorithm);
    }
}

TEST(Pbkdf2, NothingAskedFails) {
  ByteVector out(20);
  EXPECT_THROW(pbkdf2(DigestAlgorithm::sha1, {}, {}, 0, out), Error);
  EXPECT_THROW(pbkdf2(DigestAlgorithm::sha1, {}, {}, 1, {}), Error);
  pbkdf2(DigestAlgorithm::sha1, {}, {}, 1, out);  // an empty passphrase and salt are allowed
  EXPECT_NE(out, ByteVector(20));
}

TEST(Pbkdf2Iterations, Clamped) {
  using std::chrono::milliseconds;
  EXPECT_EQ(pbkdf2_iterations_for(DigestAlgorithm::sha256, 32, milliseconds(0)), kMinPbkdf2Iterations);
  EXPECT_EQ(pbkdf2_iterations_for(DigestAlgorithm::sha256, 32, milliseconds(-5)), kMinPbkdf2Iterations);
  EXPECT_EQ(pbkdf2_iterations_for(DigestAlgorithm::sha256, 32, milliseconds(INT64_MAX)), UINT32_MAX);
  EXPECT_GE(pbkdf2_iterations_for(DigestAlgorithm::sha512, 0, milliseconds(10)), kMinPbkdf2Iterations);
}

}  // namespace
}  // namespace cofre::crypto
