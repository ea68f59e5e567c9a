#include "image/image_name.h"

#include <gmock/gmock.h>

#include "scratch.h"

namespace cofre::image {
namespace {

std::string file_of(const ImageName& name) {
  return name.options.values().at("file.filename");
}

TEST(ImageName, APathIsAFile) {
  EXPECT_EQ(file_of(parse_image_name("dir/a b,c=d.img")), "dir/a b,c=d.img");
  EXPECT_EQ(file_of(parse_image_name("file:a.img")), "a.img");
  EXPECT_EQ(parse_image_name("a.img", Format::kQcow2).format, Format::kQcow2);
  message_of(ErrorKind::kInvalidArgument, [] { parse_image_name(""); });
}

TEST(ImageName, JsonAndOptionsSayTheSame) {
  const ImageName json = parse_image_name(
      R"(json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"},"encrypt":{"key-secret":"s0"}})");
  const ImageName list =
      parse_image_options("driver=qcow2,file.driver=file,file.filename=a.qcow2,encrypt.key-secret=s0");
  EXPECT_EQ(json.options.values(), list.options.values());
  EXPECT_EQ(json.format, Format::kQcow2);
  EXPECT_EQ(list.format, Format::kQcow2);
}

TEST(ImageName, ABareFileDriverIsRaw) {
  const ImageName name = parse_image_options("driver=file,filename=a.img");
  EXPECT_EQ(name.format, Format::kRaw);
  EXPECT_EQ(file_of(name), "a.img");
  message_of(ErrorKind::kInvalidArgument, [] { parse_image_options("driver=file"); });
  message_of(ErrorKind::kInvalidArgument, [] { parse_image_options("driver=file,filename=a,colour=red"); });
}

TEST(ImageName, WithoutDriverTheContentTells) {
  EXPECT_EQ(parse_image_options("file.filename=a.img").format, std::nullopt);
  message_of(ErrorKind::kInvalidArgument, [] { parse_image_options("driver=qed,file.filename=a"); });
}

TEST(ImageName, TwoFormatsMustAgree) {
  const char* text = R"(json:{"driver":"qcow2","file":{"filename":"a"}})";
  EXPECT_EQ(parse_image_name(text, Format::kQcow2).format, Format::kQcow2);
  message_of(ErrorKind::kInvalidArgument, [&] { parse_image_name(text, Format::kRaw); });
}

TEST(ImageName, NamesInAHeaderCountFromItsFolder) {
  EXPECT_EQ(resolve_beside("a.qcow2", "b.qcow2"), "b.qcow2");
  EXPECT_EQ(resolve_beside("sub/a.qcow2", "../b.qcow2"), "sub/../b.qcow2");
  EXPECT_EQ(resolve_beside("/x/a.qcow2", "y/b.qcow2"), "/x/y/b.qcow2");
  EXPECT_EQ(resolve_beside("/x/a.qcow2", "/y/b.qcow2"), "/y/b.qcow2");
  EXPECT_EQ(resolve_beside("/x/a.qcow2", "json:{}"), "json:{}");
}

}  // namespace
}  // namespace cofre::image
