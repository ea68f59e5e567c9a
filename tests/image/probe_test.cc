#include "image/probe.h"

#include <gmock/gmock.h>

#include "scratch.h"
#include "storage/file.h"

namespace cofre::image {
namespace {

class ProbeTest : public ScratchTest {
 protected:
  Format probe(const std::string& content) {
    const auto file = storage::FileDevice::open(write_file("image", content), {.read_only = true});
    return run(probe_format(*file));
  }
};

TEST_F(ProbeTest, TellsFormatsByTheirMagic) {
  const std::string zeros(1000, '\0');
  EXPECT_EQ(probe("QFI\xfb" + std::string("\0\0\0\3", 4) + zeros), Format::kQcow2);
  EXPECT_EQ(probe("QFI\xfb" + std::string("\0\0\0\2", 4) + zeros), Format::kQcow2);
  EXPECT_EQ(probe("LUKS\xba\xbe" + std::string("\0\1", 2) + zeros), Format::kLuks);
  EXPECT_EQ(probe("LUKS\xba\xbe" + std::string("\0\2", 2) + zeros), Format::kRaw);
  EXPECT_EQ(probe("\0QFI\xfb" + zeros), Format::kRaw);
  EXPECT_EQ(probe(zeros), Format::kRaw);
}

TEST_F(ProbeTest, TellsFormatsOfOtherPrograms) {
  const std::string zeros(1000, '\0');
  EXPECT_EQ(probe("KDMV" + zeros), Format::kVmdk);
  EXPECT_EQ(probe("COWD" + zeros), Format::kVmdk);
  EXPECT_EQ(probe("# Disk DescriptorFile\nversion=1\n"), Format::kVmdk);
  EXPECT_EQ(probe(std::string(64, 'v') + "\x7f\x10\xda\xbe" + zeros), Format::kVdi);
  EXPECT_EQ(probe("vhdxfile" + zeros), Format::kVhdx);
  EXPECT_EQ(probe("conectix" + zeros), Format::kVpc);
  EXPECT_EQ(probe(zeros + "conectix"), Format::kRaw);
}

TEST_F(ProbeTest, ShortFilesAreRaw) {
  EXPECT_EQ(probe(""), Format::kRaw);
  EXPECT_EQ(probe("QFI"), Format::kRaw);
  EXPECT_EQ(probe("QFI\xfb"), Format::kRaw);
}

TEST(Formats, HaveNames) {
  for (const Format format : {Format::kRaw, Format::kQcow2, Format::kLuks, Format::kVmdk, Format::kVdi,
                              Format::kVhdx, Format::kVpc})
    EXPECT_EQ(find_format(format_name(format)), format);
  EXPECT_EQ(find_format("qed"), std::nullopt);
  EXPECT_THAT(message_of(ErrorKind::kInvalidArgument, [] { parse_format("qed"); }),
              testing::HasSubstr("qcow2"));
}

}  // namespace
}  // namespace cofre::image
