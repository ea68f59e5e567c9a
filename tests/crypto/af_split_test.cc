#include "crypto/af_split.h"

#include <gtest/gtest.h>
#include <openssl/sha.h>

#include "base/error.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

TEST(AfSplit, RoundTripOverDigestsKeysAndStripes) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto algorithm :
       {DigestAlgorithm::md5, DigestAlgorithm::sha1, DigestAlgorithm::sha224, DigestAlgorithm::sha256,
        DigestAlgorithm::sha384, DigestAlgorithm::sha512, DigestAlgorithm::ripemd160})
    for (const size_t key_bytes : {1u, 16u, 20u, 32u, 33u, 64u, 100u})
      for (const uint32_t stripes : {1u, 2u, 17u, 4000u}) {
        const ByteVector key = random_bytes(random, key_bytes);
        ByteVector material(key_bytes * stripes), merged(key_bytes);
        af_split(algorithm, key, stripes, material);
        af_merge(algorithm, material, stripes, merged);
        ASSERT_EQ(merged, key) << digest_name(algorithm) << " " << key_bytes << " " << stripes;
      }
}

TEST(AfSplit, EveryByteOfTheMaterialMatters) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ByteVector key = random_bytes(random, 32);
  ByteVector material(32 * 9), merged(32);
  af_split(DigestAlgorithm::sha256, key, 9, material);
  for (std::byte& byte : material) {
    byte ^= std::byte{1};
    af_merge(DigestAlgorithm::sha256, material, 9, merged);
    EXPECT_NE(merged, key);
    byte ^= std::byte{1};
  }
}

TEST(AfSplit, MaterialIsFreshEachTime) {
  const ByteVector key(32, std::byte{9});
  ByteVector one(32 * 4), other(32 * 4);
  af_split(DigestAlgorithm::sha256, key, 4, one);
  af_split(DigestAlgorithm::sha256, key, 4, other);
  EXPECT_NE(one, other);
}

// By hand, three stripes of 40 bytes: one whole SHA-256 and eight bytes of a second, each over its number and
// its piece.
TEST(AfSplit, AsTheSpecificationComputesIt) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ByteVector material = random_bytes(random, 120);
  const auto diffuse = [](ByteVector block) {
    const auto sha = [](uint8_t number, const std::byte* piece, size_t bytes) {
      std::vector<uint8_t> in = {0, 0, 0, number};
      in.insert(in.end(), octets(piece), octets(piece) + bytes);
      ByteVector out(32);
      SHA256(in.data(), in.size(), octets(out.data()));
      return out;
    };
    ByteVector out = sha(0, block.data(), 32);
    const ByteVector rest = sha(1, block.data() + 32, 8);
    out.insert(out.end(), rest.begin(), rest.begin() + 8);
    return out;
  };
  const auto stripe = [&](size_t i) {
    return ByteVector(material.begin() + 40 * i, material.begin() + 40 * (i + 1));
  };
  const auto add = [](ByteVector a, const ByteVector& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] ^= b[i];
    return a;
  };
  const ByteVector expected = add(diffuse(add(diffuse(stripe(0)), stripe(1))), stripe(2));
  ByteVector merged(40);
  af_merge(DigestAlgorithm::sha256, material, 3, merged);
  EXPECT_EQ(merged, expected);
}

TEST(AfSplit, WrongSizesFail) {
  ByteVector key(32), material(32 * 4);
  const auto expect_refused = [](auto function) {
    try {
      function();
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    }
  };
  expect_refused([&] { af_split(DigestAlgorithm::sha1, key, 5, material); });
  expect_refused([&] { af_merge(DigestAlgorithm::sha1, material, 3, key); });
  expect_refused([&] { af_merge(DigestAlgorithm::sha1, {}, 0, key); });
  expect_refused([&] { af_split(DigestAlgorithm::sha1, {}, 4, {}); });
}

}  // namespace
}  // namespace cofre::crypto
