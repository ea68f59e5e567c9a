// The tests of the audit: how often cipher text fails them (exactly, and tried), and that plain text does.
#include "crypto/sector_look.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/units.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

Look look(const ByteVector& bytes) {
  Frequencies together;
  return look_at(bytes, &together);
}

ByteVector text(const char* words, size_t length) {
  ByteVector bytes(length);
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(words[i % std::strlen(words)]);
  return bytes;
}

// The chance that the squared frequencies of `n` uniform bytes sum up to `least` or more: 256 independent
// Poisson counts of mean n/256, given that their sum is n.
double chance_of_squares(unsigned n, size_t least) {
  const double mean = n / 256.0;
  const size_t length = 8192;
  std::vector<double> sum(length, 0);
  for (size_t k = 0; k * k < length; ++k)
    sum[k * k] +=
        std::exp(-mean + static_cast<double>(k) * std::log(mean) - std::lgamma(static_cast<double>(k) + 1));
  for (int doubling = 0; doubling < 8; ++doubling) {
    std::vector<double> twice(length, 0);
    for (size_t i = 0; i < length; ++i)
      for (size_t k = 0; i + k < length && sum[i] > 0; ++k) twice[i + k] += sum[i] * sum[k];
    sum = std::move(twice);
  }
  double chance = 0;
  for (size_t i = length; i-- > least;) chance += sum[i];
  return chance / std::exp(-1.0 * n + n * std::log(n) - std::lgamma(n + 1.0));
}

TEST(SectorLook, TheChanceOfAFalseAlarmIsAsStated) {
  EXPECT_LT(chance_of_squares(512, kTooManySquares), 1e-22);
  EXPECT_GT(chance_of_squares(512, kTooManySquares), 1e-26) << "the threshold need not be so far away";
  EXPECT_LT(461 * std::pow(98.0 / 256, kTextRunBytes), 1e-19);
  EXPECT_LT(503 * std::pow(256.0, 1.0 - kEqualRunBytes), 2e-19);
}

TEST(SectorLook, RandomBytesNeverFail) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Frequencies together;
  for (int i = 0; i < 20000; ++i) {
    const ByteVector sector = random_bytes(random, kSectorBytes);
    ASSERT_EQ(look_at(sector, &together), Look::kRandom);
    ASSERT_FALSE(repeats_a_block(sector));
    if (together.bytes() < 64 * kKiB) continue;
    ASSERT_LT(together.chi_square(), kTooUneven);
    together.clear();
  }
}

TEST(SectorLook, PlainTextDoes) {
  EXPECT_EQ(look(ByteVector(kSectorBytes)), Look::kZero);
  EXPECT_EQ(look(ByteVector(kSectorBytes, std::byte{0xff})), Look::kRun);
  EXPECT_EQ(look(text("It was a dark and stormy night; the rain fell in torrents. ", kSectorBytes)),
            Look::kText);
  EXPECT_EQ(look(ByteVector(7)), Look::kZero);
}

TEST(SectorLook, EvenBytesOfHalfTheAlphabetShowTogetherOnly) {
  std::mt19937_64 random(test_seed());
  Frequencies together;
  while (together.bytes() < 64 * kKiB) {
    ByteVector sector = random_bytes(random, kSectorBytes);
    for (std::byte& byte : sector) byte &= std::byte{0xfe};
    ASSERT_EQ(look_at(sector, &together), Look::kRandom);
  }
  EXPECT_GT(together.chi_square(), kTooUneven);
}

TEST(SectorLook, AFewSymbolsShowInASector) {
  std::mt19937_64 random(test_seed());
  ByteVector sector = random_bytes(random, kSectorBytes);
  for (std::byte& byte : sector) byte &= std::byte{0xdb};  // 64 of them, not those of text
  EXPECT_EQ(look(sector), Look::kFrequencies);
}

TEST(SectorLook, RunsAreFoundWhereverTheyLie) {
  std::mt19937_64 random(test_seed());
  for (size_t at = 0; at + kTextRunBytes <= kSectorBytes; ++at) {
    ByteVector sector = random_bytes(random, kSectorBytes);
    std::fill_n(sector.begin() + static_cast<ptrdiff_t>(at), kEqualRunBytes, std::byte{0xee});
    ASSERT_EQ(look(sector), Look::kRun) << at;
    sector = random_bytes(random, kSectorBytes);
    const ByteVector words = text("abcdefghijklmnopqrstuvwxyz", kTextRunBytes);
    std::ranges::copy(words, sector.begin() + static_cast<ptrdiff_t>(at));
    ASSERT_EQ(look(sector), Look::kText) << at;
  }
}

TEST(SectorLook, ABlockTwice) {
  std::mt19937_64 random(test_seed());
  ByteVector sector = random_bytes(random, kSectorBytes);
  std::copy_n(sector.begin() + 32, 16, sector.begin() + 480);
  EXPECT_TRUE(repeats_a_block(sector));
  sector[495] ^= std::byte{1};
  EXPECT_FALSE(repeats_a_block(sector));
}

}  // namespace
}  // namespace cofre::crypto
