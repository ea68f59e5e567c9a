#include "format/foreign/vmdk_descriptor.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace cofre::foreign {
namespace {

constexpr std::string_view kUsual =
    "# Disk DescriptorFile\nversion=1\nCID=0badcafe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";

VmdkDescriptor parse(std::string_view rest) {
  return parse_vmdk_descriptor(std::string(kUsual) + std::string(rest), "image");
}

std::string refusal(std::string_view text) {
  try {
    parse_vmdk_descriptor(text, "image");
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

bool probed(std::string_view text) {
  return is_vmdk_descriptor({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

TEST(VmdkDescriptor, IsRead) {
  const VmdkDescriptor descriptor = parse(
      "RW 63 FLAT \"a flat.vmdk\" 7\r\n"
      "  RDONLY\t5  SPARSE  \"b\"\n"
      "# RW 1 FLAT \"c\" 0\n"
      "RW 9 ZERO\n"
      "ddb.adapterType = \"ide\"\n");
  EXPECT_EQ(descriptor.cid, 0x0badcafeU);
  EXPECT_EQ(descriptor.parent_cid, 0xffffffffU);
  EXPECT_EQ(descriptor.create_type, "monolithicFlat");
  ASSERT_EQ(descriptor.extents.size(), 3U);
  EXPECT_EQ(descriptor.extents[0].name, "a flat.vmdk");
  EXPECT_EQ(descriptor.extents[0].sectors, 63U);
  EXPECT_EQ(descriptor.extents[0].offset_sectors, 7U);
  EXPECT_EQ(descriptor.extents[1].type, "SPARSE");
  EXPECT_EQ(descriptor.extents[2].type, "ZERO");
}

TEST(VmdkDescriptor, EndsAtAZeroByte) {
  const std::string text = std::string(kUsual) + '\0' + "RW 1 FLAT \"x\" 0\n";
  EXPECT_TRUE(parse_vmdk_descriptor(text, "image").extents.empty());
}

TEST(VmdkDescriptor, Refusals) {
  EXPECT_THAT(refusal(""), testing::HasSubstr("no VMDK descriptor"));
  EXPECT_THAT(refusal("CID=xyz\ncreateType=\"x\"\n"), testing::HasSubstr("no VMDK descriptor"));
  EXPECT_THAT(refusal("CID=1\nparentCID=2\ncreateType=\"x\"\n"), testing::HasSubstr("parent"));
  EXPECT_THAT(refusal("CID=1\nparentFileNameHint=\"p.vmdk\"\ncreateType=\"x\"\n"),
              testing::HasSubstr("'p.vmdk'"));
}

TEST(VmdkDescriptor, IsToldByItsVersion) {
  EXPECT_TRUE(probed("# Disk\n\n  \nversion=1\n"));
  EXPECT_TRUE(probed("version=3\r\n"));
  EXPECT_FALSE(probed("version=4\n"));
  EXPECT_FALSE(probed("version=1"));
  EXPECT_FALSE(probed("text\nversion=1\n"));
  EXPECT_FALSE(probed(std::string(600, '\n') + "version=1\n"));
  EXPECT_FALSE(probed(""));
}

}  // namespace
}  // namespace cofre::foreign
