// Reading /proc/PID/maps, and finding room beside a library.
#include "witness/mappings.h"

#include <gtest/gtest.h>

namespace cofre::witness {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(Mappings, AreParsed) {
  const auto found = parse_mappings(
      "00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a name with blanks (deleted)\n"
      "7f0000000000-7f0000001000 rw-s 00000000 00:00 0 \n"
      "7fff00000000-7fff00001000 r-xp 00000000 00:00 0                  [vdso]\n"
      "nonsense\n");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].start, 0x400000u);
  EXPECT_EQ(found[0].end, 0x452000u);
  EXPECT_TRUE(found[0].executable && found[0].is_private && found[0].is_file());
  EXPECT_EQ(found[0].file_offset, 0x1000u);
  EXPECT_EQ(found[0].inode, 173521u);
  EXPECT_EQ(found[0].device, "08:02");
  EXPECT_EQ(found[0].path, "/usr/bin/a name with blanks (deleted)");
  EXPECT_TRUE(!found[1].executable && !found[1].is_private && !found[1].is_file());
  EXPECT_EQ(found[1].path, "");
  EXPECT_EQ(found[2].path, "[vdso]");
}

Mapping at(uint64_t start, uint64_t end) {
  return {.start = start, .end = end};
}

TEST(Mappings, RoomIsFoundJustBelow) {
  const std::vector<Mapping> mappings = {at(0x7f0000000000, 0x7f0000100000),
                                         at(0x7f0000200000, 0x7f0000300000)};
  const uint64_t place = free_place(mappings, 0x7f0000200000, 0x7f0000300000, 0x4000);
  EXPECT_GE(place, 0x7f0000100000u);
  EXPECT_LE(place + 0x4000, 0x7f0000200000u);
  EXPECT_GT(place, 0x7f00001f0000u);  // the upper end of the gap
}

TEST(Mappings, RoomIsFoundAboveWhenThereIsNoneBelow) {
  const std::vector<Mapping> mappings = {at(0x1000, 0x400000), at(0x400000, 0x500000),
                                         at(0x40000000, 0x50000000)};
  const uint64_t place = free_place(mappings, 0x400000, 0x500000, 0x4000);
  EXPECT_GE(place, 0x500000u);
  EXPECT_LE(place + 0x4000, 0x40000000u);
}

TEST(Mappings, RoomIsWithinReachOfAllOfIt) {
  const uint64_t start = 0x7f0000000000;
  const std::vector<Mapping> mappings = {at(start - 4 * kGiB, start - 3 * kGiB), at(start, start + kGiB)};
  const uint64_t place = free_place(mappings, start, start + kGiB, 0x4000);
  ASSERT_NE(place, 0u);
  EXPECT_LT(start + kGiB - place, 2 * kGiB);
  const std::vector<Mapping> full = {at(start - 4 * kGiB, start), at(start, start + kGiB),
                                     at(start + kGiB, start + 8 * kGiB)};
  EXPECT_EQ(free_place(full, start, start + kGiB, 0x4000), 0u);
}

}  // namespace
}  // namespace cofre::witness
