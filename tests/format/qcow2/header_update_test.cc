// The header of an open image is rewritten: qemu-img reads what we wrote, and at every moment of a rewrite
// the header opens and is the old one or the new one.
#include "format/qcow2/header_update.h"

#include "format/luks/peer_tools.h"
#include "format/qcow2/at_home.h"
#include "layer/record.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using luks::expect_success;

using Backing = std::pair<std::optional<std::string>, std::optional<std::string>>;  // name, format

std::vector<std::byte> changed(const std::vector<std::byte>& image_bytes, const Backing& backing) {
  io::SimulatedReactor reactor(test_seed());
  const auto disk = in_memory(image_bytes);
  auto image = reactor.run_until_done(Image::open(std::make_unique<Borrowed>(*disk), {}));
  reactor.run_until_done(image->change_backing(backing.first, backing.second));
  EXPECT_EQ(image->header().backing_file, backing.first);
  reactor.run_until_done(image->close());
  return disk->content();
}

TEST(Qcow2HeaderUpdate, QemuImgReadsWhatWasChanged) {
  const luks::ScratchFolder folder;
  const std::string long_name(200, 'n');
  for (const std::string& name : {std::string("base.raw"), std::string("x"), long_name})
    expect_success(
        {"qemu-img", "create", "-q", "-f", name == long_name ? "qcow2" : "raw", folder.path(name), "1M"});
  for (const char* options : {"compat=0.10", "cluster_size=512", "compat=1.1", "cluster_size=2M",
                              "extended_l2=on,compression_type=zstd", "encryption=on,encrypt.key-secret=s"}) {
    SCOPED_TRACE(options);
    const std::string path = folder.path("image.qcow2");
    expect_success({"qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
                    options, path, "1M"});
    for (const Backing& backing : {Backing{"base.raw", "raw"}, Backing{long_name, "qcow2"},
                                   Backing{"x", "raw"}, Backing{std::nullopt, std::nullopt}}) {
      const std::vector<std::byte> bytes = changed(load_file(path), backing);
      folder.write("image.qcow2",
                   std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      const std::string info = expect_success({"qemu-img", "info", "-U", "--output=json", path});
      const auto has = [&](const std::string& text) { return info.find(text) != std::string::npos; };
      EXPECT_EQ(has("\"backing-filename\": \"" + backing.first.value_or("") + "\""),
                backing.first.has_value())
          << info;
      EXPECT_EQ(has("\"backing-filename-format\": \"" + backing.second.value_or("") + "\""),
                backing.first.has_value())
          << info;
      EXPECT_EQ(has("\"backing-filename\""), backing.first.has_value()) << info;
      const bool encrypted = std::string_view(options).starts_with("encryption");
      expect_success({"qemu-img", "check", "-q", "--object", "secret,id=s,data=x", "--image-opts",
                      "driver=qcow2,file.filename=" + path + (encrypted ? ",encrypt.key-secret=s" : "")});
    }
  }
}

TEST(Qcow2HeaderUpdate, ReadsWhatQemuImgChanged) {
  const luks::ScratchFolder folder;
  const std::string path = folder.path("image.qcow2");
  expect_success({"qemu-img", "create", "-q", "-f", "qcow2", path, "1M"});
  expect_success({"qemu-img", "rebase", "-u", "-b", "elsewhere", "-F", "raw", path});
  const std::vector<std::byte> bytes = changed(load_file(path), {"here", "qcow2"});
  const Header header = decode_header(bytes, bytes.size(), "image");
  EXPECT_EQ(header.backing_file, "here");
  EXPECT_EQ(header.feature_names, default_feature_names());
}

std::string random_text(std::mt19937_64& random, size_t most) {
  return std::string(1 + random() % most, static_cast<char>('a' + random() % 26));
}

Header random_header(Header header, std::mt19937_64& random) {
  header.backing_file.reset();
  header.backing_format.reset();
  if (random() % 4 != 0) header.backing_file = random_text(random, random() % 3 == 0 ? 1000 : 60);
  if (random() % 2 != 0) header.backing_format = random() % 2 != 0 ? "raw" : "a format of a longer name";
  header.unknown.clear();
  for (uint64_t i = random() % 3; i > 0; --i)
    header.unknown.push_back({0x10000000 + static_cast<uint32_t>(random() % 9),
                              std::vector<std::byte>(random() % 60, std::byte{7})});
  return header;
}

// What counts: the courtesy of the feature names may be missing in between.
std::vector<std::byte> essence(Header header) {
  header.feature_names.clear();
  return encode_header(header);
}

CreateOptions small(uint32_t cluster_bits) {
  CreateOptions options;
  options.size_bytes = kMiB;
  options.cluster_bits = cluster_bits;
  return options;
}

void rewrite_and_lose_power(uint32_t cluster_bits, uint64_t seed) {
  std::mt19937_64 random(seed);
  io::SimulatedReactor reactor(seed);
  storage::MemoryDevice fresh(0, "image");
  fresh.mutable_limits().growable = true;
  reactor.run_until_done(create_image(fresh, small(cluster_bits), {}));
  Header old = decode_header(fresh.content(), fresh.content().size(), "image");
  old = random_header(old, random);
  const std::vector<std::byte> encoded = encode_header(old);
  std::ranges::copy(encoded, fresh.content().begin());

  layer::RecordDevice disk(in_memory(fresh.content()), fresh.content());
  auto image = reactor.run_until_done(Image::open(std::make_unique<Borrowed>(disk), {}));
  const Header next = random_header(image->header(), random);
  reactor.run_until_done(at_home(image->state(), update_header(image->state(), next)));
  const uint64_t end = disk.moments();
  for (uint64_t moment = 0; moment <= end; ++moment) {
    for (int draw = 0; draw < 4; ++draw) {
      const std::vector<std::byte> left = disk.replay(moment, random)->content();
      const Header found = decode_header(left, left.size(), "image");
      const bool is_old = essence(found) == essence(old);
      const bool is_new = essence(found) == essence(next);
      ASSERT_TRUE(is_old || is_new) << "at moment " << moment << " of " << end;
      if (moment == end) ASSERT_TRUE(is_new);
    }
  }
  const std::vector<std::byte> last = disk.replay(end, random)->content();
  EXPECT_EQ(encode_header(decode_header(last, last.size(), "image")), encode_header(next));
  EXPECT_EQ(encode_header(image->header()), encode_header(next));
}

TEST(Qcow2HeaderUpdate, IsTheOldOneOrTheNewOneAtEveryMoment) {
  const uint64_t seed = test_seed();
  for (int i = 0; i < rounds(600); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i);
    rewrite_and_lose_power(i % 2 == 0 ? 12 : 16, seed + static_cast<uint64_t>(i));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Qcow2HeaderUpdate, RefusesBeforeAnythingChanges) {
  io::SimulatedReactor reactor(1);
  storage::MemoryDevice disk(0, "image");
  disk.mutable_limits().growable = true;
  reactor.run_until_done(create_image(disk, small(9), {}));
  const std::vector<std::byte> before = disk.content();
  auto image = reactor.run_until_done(Image::open(std::make_unique<Borrowed>(disk), {}));
  expect_error(ErrorKind::kLimit, "use larger clusters",
               [&] { reactor.run_until_done(image->change_backing(std::string(500, 'x'), "raw")); });
  expect_error(ErrorKind::kLimit, "qcow2 allows 1023",
               [&] { reactor.run_until_done(image->change_backing(std::string(1024, 'x'), "raw")); });
  EXPECT_EQ(disk.content(), before);
  auto read_only = reactor.run_until_done(Image::open(std::make_unique<Borrowed>(disk), {.read_only = true}));
  expect_error(ErrorKind::kReadOnly, "read-only",
               [&] { reactor.run_until_done(read_only->change_backing("x", "raw")); });
  EXPECT_EQ(disk.content(), before);
}

}  // namespace
}  // namespace cofre::qcow2
