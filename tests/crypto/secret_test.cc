#include "crypto/secret.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <thread>

#include "crypto/support.h"

namespace cofre::crypto {
namespace {

bool all_zero(ConstBytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

TEST(Secret, StartsZeroedAndAligned) {
  for (const size_t size : {1u, 16u, 64u, 65u, 480u, 2048u, 2049u, 4096u, 256000u}) {
    SecretBytes secret(size);
    EXPECT_EQ(secret.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(secret.data()) % 64, 0u);
    EXPECT_TRUE(all_zero(secret.bytes()));
    std::ranges::fill(secret.bytes(), std::byte{0xee});
  }
  EXPECT_TRUE(SecretBytes(0).empty());
}

TEST(Secret, WipedWhenGivenBack) {
  for (const size_t size : {16u, 100u, 2000u}) {
    const std::byte* where = nullptr;
    {
      SecretBytes secret(size);
      std::ranges::fill(secret.bytes(), std::byte{0x77});
      where = secret.data();
    }
    // The arena keeps its pages, so what was there may still be looked at.
    EXPECT_TRUE(all_zero({where, size}));
    SecretBytes next(size);
    EXPECT_EQ(next.data(), where);
    EXPECT_TRUE(all_zero(next.bytes()));
  }
}

TEST(Secret, MovesAndWipesWhatItReplaces) {
  const auto bytes = from_hex("00112233445566778899aabbccddeeff");
  SecretBytes from = SecretBytes::copy_of(bytes);
  SecretBytes to = SecretBytes::copy_of(from_hex("ff"));
  const std::byte* const replaced = to.data();
  const std::byte* const kept = from.data();
  to = std::move(from);
  EXPECT_EQ(to.data(), kept);
  EXPECT_TRUE(equal_constant_time(to.bytes(), bytes));
  EXPECT_TRUE(all_zero({replaced, 1}));
}

TEST(Secret, TruncateWipesTheRest) {
  SecretBytes secret(100);
  std::ranges::fill(secret.bytes(), std::byte{1});
  secret.truncate(200);
  EXPECT_EQ(secret.size(), 100u);
  secret.truncate(10);
  EXPECT_EQ(secret.size(), 10u);
  EXPECT_EQ(secret.bytes()[9], std::byte{1});
  EXPECT_TRUE(all_zero({secret.data() + 10, 90}));
}

TEST(Secret, ThousandsFitALowLimitOfLockedMemory) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_cur, 65536);
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
  std::vector<SecretBytes> secrets;
  for (size_t i = 0; i < 5000; ++i) {
    secrets.emplace_back(64);
    std::ranges::fill(secrets.back().bytes(), static_cast<std::byte>(i));
  }
  for (size_t i = 0; i < secrets.size(); ++i)
    ASSERT_TRUE(
        std::ranges::all_of(secrets[i].bytes(), [&](std::byte b) { return b == static_cast<std::byte>(i); }));
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &before), 0);
}

TEST(Secret, GivenBackOnAnotherThread) {
  std::vector<std::thread> threads;
  std::vector<int> clean(4);
  for (int& count : clean)
    threads.emplace_back([&count] {
      for (int i = 0; i < 2000; ++i) {
        SecretBytes secret(static_cast<size_t>(1 + i % 700));
        count += all_zero(secret.bytes());
        std::ranges::fill(secret.bytes(), std::byte{0xcc});
        if (i % 500 == 0) std::thread([moved = std::move(secret)] {}).join();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(clean, std::vector<int>(4, 2000));
}

// A write past a page of secrets is stopped.
TEST(SecretDeathTest, GuardPages) {
  SecretBytes large(8192);
  EXPECT_DEATH(static_cast<volatile std::byte*>(large.data())[8192] = std::byte{1}, "");
  EXPECT_DEATH(static_cast<volatile std::byte*>(large.data())[-1] = std::byte{1}, "");
}

TEST(Secret, EqualConstantTime) {
  const auto a = from_hex("0011223344");
  for (size_t i = 0; i < a.size(); ++i) {
    auto b = a;
    b[i] ^= std::byte{0x80};
    EXPECT_FALSE(equal_constant_time(a, b));
  }
  EXPECT_TRUE(equal_constant_time(a, a));
  EXPECT_FALSE(equal_constant_time(a, ConstBytes(a).first(4)));
  EXPECT_TRUE(equal_constant_time({}, {}));
}

TEST(Secret, Wipe) {
  auto bytes = from_hex("0011223344");
  wipe(Bytes(bytes).subspan(1, 3));
  EXPECT_EQ(to_hex(bytes), "0000000044");
  wipe({});
}

}  // namespace
}  // namespace cofre::crypto
