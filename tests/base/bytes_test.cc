#include "base/bytes.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/units.h"

namespace cofre {
namespace {

TEST(Bytes, LoadsAndStoresBothOrdersAtAnyAlignment) {
  std::byte raw[16] = {};
  store_be<uint32_t>(raw + 1, 0x01020304u);
  EXPECT_EQ(raw[1], std::byte{1});
  EXPECT_EQ(raw[4], std::byte{4});
  EXPECT_EQ(load_be<uint32_t>(raw + 1), 0x01020304u);
  EXPECT_EQ(load_le<uint32_t>(raw + 1), 0x04030201u);
  store_le<uint64_t>(raw + 3, 0x0102030405060708u);
  EXPECT_EQ(raw[3], std::byte{8});
  EXPECT_EQ(load_le<uint64_t>(raw + 3), 0x0102030405060708u);
  EXPECT_EQ(load_be<uint64_t>(raw + 3), 0x0807060504030201u);
  store_be<uint16_t>(raw, 0xbeef);
  EXPECT_EQ(load_be<uint16_t>(raw), 0xbeef);
  EXPECT_EQ(load_be<uint8_t>(raw), 0xbe);
}

TEST(Bytes, IsZeroFindsOneBitAnywhere) {
  for (size_t size = 0; size < 1100; size = size < 300 ? size + 1 : size + 97) {
    std::vector<std::byte> bytes(size + 1);
    const Bytes view = Bytes(bytes).subspan(1);  // not aligned
    EXPECT_TRUE(is_zero(view)) << size;
    for (size_t i = 0; i < size; ++i) {
      view[i] = std::byte{0x10};
      EXPECT_FALSE(is_zero(view)) << size << " bytes, one set at " << i;
      view[i] = std::byte{0};
    }
    bytes[0] = std::byte{1};
    EXPECT_TRUE(is_zero(view)) << "looked in front of its range";
  }
}

TEST(Units, OffsetsKeepTheirSpace) {
  GuestOffset guest{4096};
  guest += 512;
  EXPECT_EQ(guest - GuestOffset{4096}, 512u);
  EXPECT_EQ((guest - 512).bytes, 4096u);
  EXPECT_LT(GuestOffset{1}, GuestOffset{2});
  static_assert(!std::is_convertible_v<GuestOffset, HostOffset>);
}

}  // namespace
}  // namespace cofre
