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

TEST(ImageName, ADriverThatIsNoFormatIsKept) {
  const ImageName name = parse_image_options("driver=file,filename=a.img");
  EXPECT_EQ(name.format, std::nullopt);
  EXPECT_EQ(name.driver, "file");
  EXPECT_EQ(name.options.values().at("filename"), "a.img");
}

TEST(ImageName, ProtocolsBecomeOptions) {
  using Map = std::map<std::string, std::string, std::less<>>;
  const auto values = [](const std::string& text) { return parse_image_name(text).options.values(); };
  EXPECT_EQ(values("nbd://host/a%20b"), (Map{{"file.driver", "nbd"},
                                             {"file.server.type", "inet"},
                                             {"file.server.host", "host"},
                                             {"file.server.port", "10809"},
                                             {"file.export", "a b"}}));
  EXPECT_EQ(values("nbd://[::1]:12"), (Map{{"file.driver", "nbd"},
                                           {"file.server.type", "inet"},
                                           {"file.server.host", "::1"},
                                           {"file.server.port", "12"}}));
  const Map unix_socket = {{"file.driver", "nbd"},
                           {"file.server.type", "unix"},
                           {"file.server.path", "/run/s"},
                           {"file.export", "e:x"}};
  EXPECT_EQ(values("nbd:unix:/run/s:exportname=e:x"), unix_socket);
  EXPECT_EQ(values("nbd+unix:///e:x?socket=/run/s"), unix_socket);
  EXPECT_EQ(values("blkdebug::a.img").at("file.image.filename"), "a.img");
  EXPECT_EQ(values("blkverify:a:b.q").at("file.test.file.filename"), "b.q");
  EXPECT_EQ(values("host_device:/dev/x").at("file.driver"), "host_device");
}

TEST(ImageName, BadProtocolNamesAreRefused) {
  for (const char* bad : {"nbd://", "nbd:host", "nbd+unix:///e", "nbd+unix://host/e?socket=s", "nbd://h/%zz",
                          "nbd://h/%00", "null-co:x", "blkdebug:x", "blkverify:x", "nbd://h/e?x=y"})
    message_of(ErrorKind::kInvalidArgument, [&] { parse_image_name(bad); });
  message_of(ErrorKind::kUnsupported, [] { parse_image_name("fat:folder"); });
}

TEST(ImageName, WithoutDriverTheContentTells) {
  EXPECT_EQ(parse_image_options("file.filename=a.img").format, std::nullopt);
  message_of(ErrorKind::kInvalidArgument, [] { parse_image_options("driver=qed,file.filename=a"); });
}

TEST(ImageName, TheFormatBesideAJsonNameCounts) {
  const char* text = R"(json:{"driver":"qcow2","file":{"filename":"a"}})";
  EXPECT_EQ(parse_image_name(text).format, Format::kQcow2);
  EXPECT_EQ(parse_image_name(text, Format::kRaw).format, Format::kRaw);
}

TEST(ImageName, AHeaderNamesNoServerAndNoFilter) {
  for (
      const char* bad :
      {"nbd://host/x", "nbd:unix:/s", "blkdebug:/etc/passwd:x", "blkverify:a:b", "null-co://",
       R"(json:{"driver":"nbd","path":"/s"})", R"(json:{"driver":"raw","file":{"driver":"nbd","path":"/s"}})",
       R"(json:{"driver":"qcow2","file":{"filename":"a"},"backing":{"driver":"raw","file":{"driver":"nbd"}}})"})
    message_of(ErrorKind::kUnsupported, [&] { parse_header_name(bad); });
  EXPECT_EQ(file_of(parse_header_name("a.img", Format::kRaw)), "a.img");
  EXPECT_EQ(parse_header_name(R"(json:{"driver":"qcow2","file":{"driver":"file","filename":"a"}})").format,
            Format::kQcow2);
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
