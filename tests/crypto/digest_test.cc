#include "crypto/digest.h"

#include <gcrypt.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "crypto/random.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

constexpr DigestAlgorithm kAll[] = {
    DigestAlgorithm::md5,    DigestAlgorithm::sha1,   DigestAlgorithm::sha224,   DigestAlgorithm::sha256,
    DigestAlgorithm::sha384, DigestAlgorithm::sha512, DigestAlgorithm::ripemd160};

std::string digest_hex(DigestAlgorithm algorithm, std::string_view text) {
  ByteVector out(digest_bytes(algorithm));
  digest(algorithm, bytes_of(text), out);
  return to_hex(out);
}

// RFC 1321, FIPS 180-4 examples, and the RIPEMD-160 paper.
TEST(Digest, PublishedVectors) {
  EXPECT_EQ(digest_hex(DigestAlgorithm::md5, ""), "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(digest_hex(DigestAlgorithm::md5, "abc"), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(digest_hex(DigestAlgorithm::sha1, "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(digest_hex(DigestAlgorithm::sha224, "abc"),
            "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7");
  EXPECT_EQ(digest_hex(DigestAlgorithm::sha256, "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      digest_hex(DigestAlgorithm::sha384, "abc"),
      "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7");
  EXPECT_EQ(digest_hex(DigestAlgorithm::sha512, "abc"),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
  EXPECT_EQ(digest_hex(DigestAlgorithm::ripemd160, "abc"), "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
}

TEST(Digest, AgreesWithLibgcryptInPieces) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto algorithm : kAll) {
    Digest pieces(algorithm);
    for (int round = 0; round < 20; ++round) {
      const ByteVector text = cofre::random_bytes(random, random() % 1000);
      ByteVector expected(digest_bytes(algorithm)), got(digest_bytes(algorithm));
      gcry_md_hash_buffer(gcry_md_map_name(std::string(digest_name(algorithm)).c_str()), expected.data(),
                          text.data(), text.size());
      const size_t cut = text.empty() ? 0 : random() % text.size();
      pieces.update(ConstBytes(text).first(cut));
      pieces.update(ConstBytes(text).subspan(cut));
      pieces.finish(got);
      EXPECT_EQ(got, expected) << digest_name(algorithm);
    }
  }
}

TEST(Digest, Names) {
  for (const auto algorithm : kAll) EXPECT_EQ(parse_digest(digest_name(algorithm)), algorithm);
  EXPECT_EQ(digest_name(DigestAlgorithm::ripemd160), "ripemd160");
  EXPECT_EQ(parse_digest("SHA256"), std::nullopt);
  EXPECT_EQ(parse_digest(""), std::nullopt);
}

TEST(Digest, OutputOfAnotherLengthFails) {
  ByteVector out(31);
  EXPECT_THROW(digest(DigestAlgorithm::sha256, {}, out), Error);
}

TEST(Random, FillsAndDiffers) {
  ByteVector a(4096), b(4096);
  random_bytes(a);
  random_bytes(b);
  EXPECT_NE(a, b);
  size_t ones = 0;
  for (const std::byte byte : a) ones += static_cast<size_t>(std::popcount(std::to_integer<unsigned>(byte)));
  // 32768 fair coins: a miss by 2000 is eleven standard deviations.
  EXPECT_NEAR(static_cast<double>(ones), 4096 * 4, 2000);
  random_bytes({});
}

}  // namespace
}  // namespace cofre::crypto
