#include "base/checked.h"

#include <gtest/gtest.h>

namespace cofre {
namespace {

TEST(Checked, AddAndMultiplySayWhenTheyWrap) {
  EXPECT_EQ(checked_add<uint64_t>(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_EQ(checked_add<uint64_t>(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(1ull << 32, (1ull << 32) - 1), 0xffffffff00000000ull);
  EXPECT_EQ(checked_mul<uint64_t>(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(0, UINT64_MAX), 0u);
  EXPECT_EQ(checked_add<uint32_t>(UINT32_MAX, 1), std::nullopt);
  EXPECT_EQ(checked_add<uint8_t>(200, 56), std::nullopt);
  EXPECT_EQ(checked_add<uint8_t>(200, 55), 255);
}

TEST(Checked, RangeWithinDoesNotWrap) {
  EXPECT_TRUE(range_within(0, 0, 0));
  EXPECT_TRUE(range_within(10, 0, 10));
  EXPECT_TRUE(range_within(0, 10, 10));
  EXPECT_FALSE(range_within(1, 10, 10));
  EXPECT_FALSE(range_within(11, 0, 10));
  EXPECT_FALSE(range_within(UINT64_MAX, 2, 10));
  EXPECT_FALSE(range_within(2, UINT64_MAX, 10));
  EXPECT_TRUE(range_within(0, UINT64_MAX, UINT64_MAX));
}

TEST(Checked, AlignmentRoundsBothWays) {
  EXPECT_TRUE(is_aligned<uint64_t>(0, 512));
  EXPECT_FALSE(is_aligned<uint64_t>(513, 512));
  EXPECT_EQ(align_down<uint64_t>(1023, 512), 512u);
  EXPECT_EQ(align_up<uint64_t>(1, 512), 512u);
  EXPECT_EQ(align_up<uint64_t>(1024, 512), 1024u);
  EXPECT_EQ(align_down<uint64_t>(UINT64_MAX, 4096), UINT64_MAX - 4095);
  EXPECT_EQ(div_ceil<uint64_t>(0, 7), 0u);
  EXPECT_EQ(div_ceil<uint64_t>(14, 7), 2u);
  EXPECT_EQ(div_ceil<uint64_t>(15, 7), 3u);
  EXPECT_EQ(div_ceil<uint64_t>(UINT64_MAX, 2), (UINT64_MAX >> 1) + 1);
}

}  // namespace
}  // namespace cofre
