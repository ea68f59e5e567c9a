// Opening of whole images: chains, loops, secrets, locks, and bad names.
#include "image/open.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <vector>

#include "image/create.h"
#include "scratch.h"

namespace cofre::image {
namespace {

using testing::HasSubstr;

// Fast key derivation, for tests only.
constexpr const char* kLuks = "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=1";

class OpenTest : public ScratchTest {
 protected:
  OpenTest() { secrets_.add_object("secret,id=s0,data=open sesame"); }

  void create(const std::string& name, Format format, const std::string& options, uint64_t size = kMiB) {
    const CreatePlan plan = run(plan_image({.path = path(name),
                                            .format = format,
                                            .options = Options::parse_list(options),
                                            .size_bytes = size,
                                            .backing_file = std::nullopt,
                                            .backing_format = std::nullopt,
                                            .unchecked_backing = true}));
    TargetFile target(plan.path);
    run(create_image(plan, target, secrets_, {}));
    target.commit(false);
  }
  OpenedImage open(const std::string& name, OpenPolicy policy = {}, const std::string& options = "") {
    ImageName image = parse_image_name(path(name));
    image.options.merge(Options::parse_list(options));
    policy.secrets = &secrets_;
    return run(open_image(std::move(image), policy));
  }
  void close(OpenedImage& image) { run(ScratchTest::close(*image.device)); }
  void write(const std::string& name, uint64_t offset, const std::string& bytes,
             const std::string& options = "") {
    OpenedImage image = open(name, {.writable = true}, options);
    std::vector<std::byte> sector(512, static_cast<std::byte>(bytes[0]));
    run(ScratchTest::write(*image.device, offset, sector));
    close(image);
  }
  char first_byte(OpenedImage& image, uint64_t offset) {
    std::vector<std::byte> sector(512);
    run(read(*image.device, offset, sector));
    return static_cast<char>(sector[0]);
  }

  Secrets secrets_;
};

TEST_F(OpenTest, AChainShowsWhatItsLayersHold) {
  write_file("base.raw", std::string(kMiB, 'r'));
  create("mid.qcow2", Format::kQcow2, "backing_file=base.raw,backing_fmt=raw");
  create("top.qcow2", Format::kQcow2, "backing_file=mid.qcow2,backing_fmt=qcow2");
  write("mid.qcow2", 65536, "m");
  write("top.qcow2", 131072, "t");
  OpenedImage image = open("top.qcow2");
  ASSERT_EQ(image.chain.size(), 3U);
  EXPECT_EQ(image.chain[0].path, path("top.qcow2"));
  EXPECT_EQ(image.chain[1].format, Format::kQcow2);
  EXPECT_EQ(image.chain[2].format, Format::kRaw);
  EXPECT_TRUE(image.chain[0].probed);
  EXPECT_FALSE(image.chain[1].probed);
  EXPECT_EQ(first_byte(image, 0), 'r');
  EXPECT_EQ(first_byte(image, 65536), 'm');
  EXPECT_EQ(first_byte(image, 131072), 't');
  close(image);
}

TEST_F(OpenTest, TheBackingFileCanBeReplacedOrLeftOut) {
  write_file("a.raw", std::string(kMiB, 'a'));
  write_file("b.raw", std::string(kMiB, 'b'));
  create("top.qcow2", Format::kQcow2, "backing_file=a.raw,backing_fmt=raw");
  OpenedImage other = open("top.qcow2", {}, "backing.driver=raw,backing.file.filename=" + path("b.raw"));
  EXPECT_EQ(first_byte(other, 0), 'b');
  close(other);
  OpenedImage none = open("top.qcow2", {}, "backing=");
  EXPECT_EQ(first_byte(none, 0), '\0');
  EXPECT_EQ(none.chain.size(), 1U);
  close(none);
}

TEST_F(OpenTest, ALoopIsNamedByItsChain) {
  create("a.qcow2", Format::kQcow2, "backing_file=b.qcow2,backing_fmt=qcow2");
  create("b.qcow2", Format::kQcow2, "backing_file=c.qcow2,backing_fmt=qcow2");
  create("c.qcow2", Format::kQcow2, "backing_file=a.qcow2,backing_fmt=qcow2");
  const std::string message = message_of(ErrorKind::kInvalidArgument, [&] { open("a.qcow2"); });
  EXPECT_THAT(message, HasSubstr(fmt::format("'{}' -> '{}' -> '{}' -> '{}'", path("a.qcow2"), path("b.qcow2"),
                                             path("c.qcow2"), path("a.qcow2"))));
}

TEST_F(OpenTest, AChainIsBoundedInDepth) {
  create("0", Format::kQcow2, "");
  for (int i = 1; i < 6; ++i)
    create(std::to_string(i), Format::kQcow2, fmt::format("backing_file={},backing_fmt=qcow2", i - 1));
  OpenedImage image = open("5", {.max_chain = 6});
  EXPECT_EQ(image.chain.size(), 6U);
  close(image);
  EXPECT_THAT(message_of(ErrorKind::kLimit, [&] { open("5", {.max_chain = 5}); }),
              HasSubstr("longer than 5"));
}

TEST_F(OpenTest, AMissingBackingFileIsNamedWithItsOverlay) {
  create("top.qcow2", Format::kQcow2, "backing_file=absent.raw,backing_fmt=raw");
  const std::string message = message_of(ErrorKind::kNotFound, [&] { open("top.qcow2"); });
  EXPECT_THAT(message, HasSubstr("backing file of '" + path("top.qcow2")));
  EXPECT_THAT(message, HasSubstr(path("absent.raw")));
  OpenedImage image = open("top.qcow2", {.no_backing = true});
  close(image);
}

TEST_F(OpenTest, SecretsGoToTheLayerThatNamesThem) {
  secrets_.add_object("secret,id=s1,data=another");
  create("base.qcow2", Format::kQcow2, kLuks);
  create("top.qcow2", Format::kQcow2,
         "backing_file=base.qcow2,backing_fmt=qcow2,encrypt.format=luks,encrypt.key-secret=s1,encrypt.iter-"
         "time=1");
  write("base.qcow2", 0, "b", "encrypt.key-secret=s0");
  OpenedImage image = open("top.qcow2", {}, "encrypt.key-secret=s1,backing.encrypt.key-secret=s0");
  EXPECT_EQ(first_byte(image, 0), 'b');
  close(image);
  message_of(ErrorKind::kWrongSecret,
             [&] { open("top.qcow2", {}, "encrypt.key-secret=s0,backing.encrypt.key-secret=s0"); });
  const std::string message =
      message_of(ErrorKind::kMissingSecret, [&] { open("top.qcow2", {}, "encrypt.key-secret=s1"); });
  EXPECT_THAT(message, HasSubstr("'" + path("base.qcow2") + "' is encrypted"));
}

TEST_F(OpenTest, WithoutKeysEncryptedImagesStillTellTheirHeaders) {
  create("enc.qcow2", Format::kQcow2, kLuks);
  create("enc.luks", Format::kLuks, "key-secret=s0,iter-time=1");
  secrets_ = {};
  for (const char* name : {"enc.qcow2", "enc.luks"}) {
    OpenedImage image = open(name, {.keys = Keys::kUnused});
    EXPECT_EQ(image.device->length_bytes(), kMiB);
    close(image);
    message_of(ErrorKind::kMissingSecret, [&] { open(name); });
  }
}

TEST_F(OpenTest, EncryptFormatMustBeTheImages) {
  create("enc.qcow2", Format::kQcow2, kLuks);
  EXPECT_THAT(message_of(ErrorKind::kInvalidArgument,
                         [&] { open("enc.qcow2", {}, "encrypt.format=aes,encrypt.key-secret=s0"); }),
              HasSubstr("luks"));
}

TEST_F(OpenTest, UnknownOptionsAreRefused) {
  create("a.qcow2", Format::kQcow2, "");
  EXPECT_THAT(message_of(ErrorKind::kInvalidArgument, [&] { open("a.qcow2", {}, "colour=red"); }),
              HasSubstr("'colour'"));
  EXPECT_THAT(message_of(ErrorKind::kInvalidArgument, [&] { open("a.qcow2", {}, "file.colour=red"); }),
              HasSubstr("'colour'"));
  message_of(ErrorKind::kInvalidArgument, [&] { open("a.qcow2", {}, "file.driver=nbd"); });
  write_file("a.raw", "x");
  message_of(ErrorKind::kInvalidArgument, [&] { open("a.raw", {}, "encrypt.key-secret=s0"); });
}

TEST_F(OpenTest, WritersExcludeEachOtherAndSharersBearThem) {
  create("a.qcow2", Format::kQcow2, "");
  OpenedImage writer = open("a.qcow2", {.writable = true});
  message_of(ErrorKind::kLocked, [&] { open("a.qcow2"); });
  message_of(ErrorKind::kLocked, [&] { open("a.qcow2", {.writable = true}); });
  OpenedImage sharer = open("a.qcow2", {.force_share = true});
  close(sharer);
  close(writer);
  message_of(ErrorKind::kInvalidArgument, [&] { open("a.qcow2", {.writable = true, .force_share = true}); });
}

TEST_F(OpenTest, ABackingFileInUseForWritingIsRefused) {
  write_file("base.raw", std::string(kMiB, 'r'));
  create("top.qcow2", Format::kQcow2, "backing_file=base.raw,backing_fmt=raw");
  OpenedImage writer = open("base.raw", {.writable = true});
  message_of(ErrorKind::kLocked, [&] { open("top.qcow2"); });
  close(writer);
}

TEST_F(OpenTest, DataFilesAreFoundBesideTheImage) {
  create("a.qcow2", Format::kQcow2, "data_file=a.data");
  write("a.qcow2", 0, "d");
  OpenedImage image = open("a.qcow2");
  EXPECT_EQ(first_byte(image, 0), 'd');
  EXPECT_EQ(image.top().data_file->name(), path("a.data"));
  close(image);
  EXPECT_EQ(read_file("a.data")[0], 'd');
  std::filesystem::rename(path("a.data"), path("b.data"));
  EXPECT_THAT(message_of(ErrorKind::kNotFound, [&] { open("a.qcow2"); }), HasSubstr("data file of"));
  OpenedImage named = open("a.qcow2", {}, "data-file.filename=" + path("b.data"));
  EXPECT_EQ(first_byte(named, 0), 'd');
  close(named);
}

TEST_F(OpenTest, CreationRefusesWhatCannotBe) {
  const auto plan = [&](Format format, const std::string& options, std::optional<std::string> backing,
                        std::optional<std::string> backing_format, std::optional<uint64_t> size) {
    return message_of(ErrorKind::kInvalidArgument, [&] {
      run(plan_image({.path = path("new"),
                      .format = format,
                      .options = Options::parse_list(options),
                      .size_bytes = size,
                      .backing_file = std::move(backing),
                      .backing_format = std::move(backing_format)}));
    });
  };
  write_file("base.raw", std::string(kMiB, 'r'));
  EXPECT_THAT(plan(Format::kQcow2, "", "base.raw", std::nullopt, kMiB), HasSubstr("-F"));
  EXPECT_THAT(plan(Format::kQcow2, "", std::nullopt, "raw", kMiB), HasSubstr("without backing file"));
  EXPECT_THAT(plan(Format::kQcow2, "", "new", "qcow2", kMiB), HasSubstr("its own backing file"));
  EXPECT_THAT(plan(Format::kRaw, "", "base.raw", "raw", kMiB), HasSubstr("not supported"));
  EXPECT_THAT(plan(Format::kQcow2, "", std::nullopt, std::nullopt, std::nullopt), HasSubstr("needs a size"));
  EXPECT_THAT(plan(Format::kQcow2, "size=1M", std::nullopt, std::nullopt, kMiB), HasSubstr("only once"));
  EXPECT_THAT(plan(Format::kQcow2, "", "base.raw", "qcow2", std::nullopt),
              HasSubstr("could not open backing image"));
}

TEST_F(OpenTest, SizeComesFromTheBackingFile) {
  write_file("base.raw", std::string(100'000, 'r'));
  const CreatePlan plan = run(plan_image({.path = path("new"),
                                          .format = Format::kQcow2,
                                          .options = {},
                                          .size_bytes = std::nullopt,
                                          .backing_file = "base.raw",
                                          .backing_format = "raw"}));
  EXPECT_EQ(plan.size_bytes, 100'352U);
}

TEST(CacheModes, AreQemus) {
  EXPECT_TRUE(parse_cache_mode("none").direct);
  EXPECT_TRUE(parse_cache_mode("directsync").direct);
  EXPECT_TRUE(parse_cache_mode("directsync").write_through);
  EXPECT_TRUE(parse_cache_mode("writethrough").write_through);
  EXPECT_TRUE(parse_cache_mode("unsafe").no_flush);
  EXPECT_FALSE(parse_cache_mode("writeback").no_flush);
  message_of(ErrorKind::kInvalidArgument, [] { parse_cache_mode("foo"); });
}

TEST_F(OpenTest, OneTypedPassphraseServesTheChain) {
  create("base.luks", Format::kLuks, "key-secret=s0,iter-time=1");
  create("mid.qcow2", Format::kQcow2, fmt::format("backing_file=base.luks,backing_fmt=luks,{}", kLuks));
  create("top.qcow2", Format::kQcow2, fmt::format("backing_file=mid.qcow2,backing_fmt=qcow2,{}", kLuks));
  secrets_.add_object("secret,id=other,data=another");
  create("odd.qcow2", Format::kQcow2,
         "backing_file=mid.qcow2,backing_fmt=qcow2,encrypt.format=luks,encrypt.key-secret=other,"
         "encrypt.iter-time=1");
  write("mid.qcow2", 0, "m", "encrypt.key-secret=s0,backing.key-secret=s0");
  std::vector<std::string> asked;
  const auto answer = [&asked](std::string text) {
    return [&asked, text](const std::string& image, bool) {
      asked.push_back(image);
      const std::string said = asked.size() == 1 ? text : "open sesame";
      return std::optional(crypto::SecretBytes::copy_of(std::as_bytes(std::span(said))));
    };
  };
  secrets_ = {};
  secrets_.set_prompt(answer("open sesame"));
  OpenedImage image = open("top.qcow2");
  EXPECT_EQ(asked, std::vector{path("top.qcow2")});
  EXPECT_EQ(first_byte(image, 0), 'm');
  close(image);

  // Where it is another one, that image is asked for.
  secrets_ = {};
  asked.clear();
  secrets_.set_prompt(answer("another"));
  OpenedImage odd = open("odd.qcow2");
  EXPECT_EQ(asked, (std::vector{path("odd.qcow2"), path("mid.qcow2")}));
  close(odd);
}

TEST_F(OpenTest, OneLayerBelowCanBeWritten) {
  write_file("base.raw", std::string(kMiB, 'r'));
  create("mid.qcow2", Format::kQcow2, "backing_file=base.raw,backing_fmt=raw");
  create("top.qcow2", Format::kQcow2, "backing_file=mid.qcow2,backing_fmt=qcow2");
  const auto writable = [](const OpenedImage& image) {
    std::vector<bool> layers;
    for (const Layer& layer : image.chain) {
      EXPECT_EQ(layer.writable, !layer.device->limits().read_only) << layer.path;
      layers.push_back(layer.writable);
    }
    return layers;
  };
  const std::pair<std::string, std::vector<bool>> cases[] = {
      {"", {true, true, false}},           {"mid.qcow2", {true, true, false}},
      {"base.raw", {true, false, true}},   {path("base.raw"), {true, false, true}},
      {"top.qcow2", {true, false, false}}, {"absent", {true, false, false}},
  };
  for (const auto& [name, layers] : cases) {
    OpenedImage image = open("top.qcow2", {.writable = true, .writable_backing = name});
    EXPECT_EQ(writable(image), layers) << name;
    close(image);
  }
  OpenedImage image = open("top.qcow2", {.writable = true, .writable_backing = "base.raw"});
  const std::vector<std::byte> sector(512, static_cast<std::byte>('w'));
  run(ScratchTest::write(*image.chain[2].device, 0, sector));
  EXPECT_EQ(first_byte(image, 0), 'w');
  close(image);
  EXPECT_EQ(read_file("base.raw")[0], 'w');
}

}  // namespace
}  // namespace cofre::image
