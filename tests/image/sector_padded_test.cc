#include "image/sector_padded.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "scratch.h"
#include "storage/file.h"

namespace cofre::image {
namespace {

class SectorPaddedTest : public ScratchTest {
 protected:
  std::unique_ptr<block::Device> open(size_t length) {
    return make_sector_padded(storage::FileDevice::open(write_file("odd", std::string(length, 'x')), {}));
  }
};

TEST_F(SectorPaddedTest, WholeSectorsStayAsTheyAre) {
  const auto device = open(1024);
  EXPECT_NE(dynamic_cast<storage::FileDevice*>(device.get()), nullptr);
}

TEST_F(SectorPaddedTest, TheLastSectorReadsAsZeroPastTheEnd) {
  const auto device = open(1000);
  ASSERT_EQ(device->length_bytes(), 1024U);
  std::vector<std::byte> bytes(1024, std::byte{0xff});
  run(read(*device, 0, bytes));
  EXPECT_TRUE(
      std::all_of(bytes.begin(), bytes.begin() + 1000, [](std::byte b) { return b == std::byte{'x'}; }));
  EXPECT_TRUE(std::all_of(bytes.begin() + 1000, bytes.end(), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(read_file("odd").size(), 1000U) << "reading must not lengthen the file";
}

TEST_F(SectorPaddedTest, AWriteIntoThePaddingCompletesTheSector) {
  const auto device = open(1000);
  const std::vector<std::byte> bytes(512, std::byte{'y'});
  run(write(*device, 512, bytes));
  EXPECT_EQ(read_file("odd"), std::string(512, 'x') + std::string(512, 'y'));
  EXPECT_EQ(device->length_bytes(), 1024U);
}

TEST_F(SectorPaddedTest, ExtentsCoverThePadding) {
  const auto device = open(1000);
  const block::Extent extent = run(map(*device, 0, 1024));
  EXPECT_EQ(extent.length_bytes, 1024U);
  EXPECT_TRUE(extent.allocated);
  EXPECT_FALSE(extent.zero);
}

}  // namespace
}  // namespace cofre::image
