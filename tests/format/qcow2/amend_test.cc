// Options of existing images change, and a power loss at any moment of it leaves an image that opens, shows
// the same bytes and has lost no more than clusters.
#include "format/qcow2/amend.h"

#include "format/luks/peer_tools.h"
#include "layer/record.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using luks::expect_success;

constexpr uint64_t kDiskBytes = 96 * 1024;

// An image of 4 KiB clusters that qemu-img made: data, zero clusters with and without space behind them, two
// snapshots that share tables, and (if asked) a backing file full of 'b'.
class Qcow2Amend : public testing::Test {
 protected:
  std::vector<std::byte> make(const std::string& options, bool over_backing, bool snapshots = true) {
    const std::string path = folder_.path("image.qcow2");
    if (over_backing) {
      folder_.write("base.raw", std::string(kDiskBytes, 'b'));
      expect_success({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b",
                      folder_.path("base.raw"), "-F", "raw", path});
    } else {
      expect_success(
          {"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, std::to_string(kDiskBytes)});
    }
    over_backing_ = over_backing;
    const auto io = [&](std::vector<std::string> commands) {
      std::vector<std::string> words = {"qemu-io"};
      for (const std::string& command : commands) words.insert(words.end(), {"-c", command});
      words.push_back(path);
      expect_success(words);
    };
    const bool version2 = options.find("compat=0.10") != std::string::npos;
    io({"write -P 1 0 32k"});
    if (!version2) io({"write -z 8k 4k", "write -z -u 12k 4k", "write -z 64k 8k"});
    if (!snapshots) return load_file(path);
    expect_success({"qemu-img", "snapshot", "-c", "one", path});
    io({"write -P 2 4k 4k"});
    expect_success({"qemu-img", "snapshot", "-c", "two", path});
    if (!version2) io({"write -z 20k 4k", "write -z 88k 8k"});
    return load_file(path);
  }

  std::unique_ptr<Image> open(std::unique_ptr<block::Device> device, OpenOptions options = {}) {
    auto image = reactor_.run_until_done(Image::open(std::move(device), options));
    if (over_backing_ && image->header().backing_file) {
      auto backing = std::make_unique<storage::MemoryDevice>(kDiskBytes, "base");
      std::ranges::fill(backing->content(), std::byte{'b'});
      image->set_backing(std::move(backing));
    }
    return image;
  }

  std::vector<std::byte> content(Image& image) {
    std::vector<std::byte> bytes(kDiskBytes);
    reactor_.run_until_done(image.read(0, bytes));
    return bytes;
  }

  // With lazy refcounts, an image that was not closed counts anew when it is opened for writing.
  CheckResult checked(block::Device& device) {
    if (open(std::make_unique<Borrowed>(device), {.read_only = true})->is_dirty())
      reactor_.run_until_done(open(std::make_unique<Borrowed>(device))->close());
    const auto image = open(std::make_unique<Borrowed>(device), {.read_only = true, .for_check = true});
    std::string findings;
    const CheckResult result = reactor_.run_until_done(
        check(*image, {.report = [&](const std::string& finding) { findings += finding + "\n"; }}));
    EXPECT_EQ(result.corruptions, 0u) << findings;
    return result;
  }

  // Changes the image and replays every moment of it.
  std::vector<std::byte> amend_safely(const std::vector<std::byte>& bytes, const AmendOptions& options) {
    layer::RecordDevice record(in_memory(bytes), bytes);
    const auto image = open(std::make_unique<Borrowed>(record));
    const std::vector<std::byte> before = content(*image);
    reactor_.run_until_done(amend(*image, options, {}));
    EXPECT_EQ(content(*image), before);
    reactor_.run_until_done(image->close());
    for (uint64_t moment = 0; moment <= record.moments(); ++moment) {
      SCOPED_TRACE(fmt::format("moment {} of {}", moment, record.moments()));
      const auto left = record.replay(moment, random_);
      checked(*left);
      EXPECT_EQ(content(*open(std::make_unique<Borrowed>(*left), {.read_only = true})), before);
      if (testing::Test::HasFailure()) break;
    }
    const auto done = record.replay(record.moments(), random_);
    EXPECT_EQ(checked(*done).leaks, 0u);
    return done->content();
  }

  // qemu-img finds nothing wrong; both snapshots and the disk read as they did from `before`.
  void expect_same_for_qemu(const std::vector<std::byte>& before, const std::vector<std::byte>& after) {
    const auto write = [this](const std::string& name, const std::vector<std::byte>& bytes) {
      folder_.write(name, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      return folder_.path(name);
    };
    const std::string old_path = write("before.qcow2", before);
    const std::string new_path = write("after.qcow2", after);
    const std::string checked_text = expect_success({"qemu-img", "check", new_path});
    EXPECT_NE(checked_text.find("No errors"), std::string::npos) << checked_text;
    for (const std::string& snapshot : {std::string(), std::string("one"), std::string("two")}) {
      std::vector<std::vector<std::byte>> read;
      for (const std::string& path : {old_path, new_path}) {
        std::vector<std::string> words = {"qemu-img", "convert", "-O", "raw"};
        if (!snapshot.empty()) words.insert(words.end(), {"-l", snapshot});
        words.insert(words.end(), {path, folder_.path("content.raw")});
        expect_success(words);
        read.push_back(load_file(folder_.path("content.raw")));
      }
      EXPECT_EQ(read[0], read[1]) << "snapshot '" << snapshot << "'";
    }
  }

  const luks::ScratchFolder folder_;
  bool over_backing_ = false;
  io::SimulatedReactor reactor_{test_seed()};
  std::mt19937_64 random_{test_seed()};
};

TEST_F(Qcow2Amend, RefcountsOfEveryWidth) {
  const std::vector<std::byte> made = make("cluster_size=4k,refcount_bits=16", false);
  std::vector<std::byte> bytes = made;
  for (const uint32_t order : {6u, 2u, 5u, 3u, 4u}) {
    SCOPED_TRACE(order);
    bytes = amend_safely(bytes, {.refcount_order = order});
    EXPECT_EQ(decode_header(bytes, bytes.size(), "image").refcount_order, order);
    expect_same_for_qemu(made, bytes);
  }
}

TEST_F(Qcow2Amend, TheSmallestClustersAndCounts) {
  const std::vector<std::byte> bytes = make("cluster_size=512,refcount_bits=1", false, /*snapshots=*/false);
  const std::vector<std::byte> wide = amend_safely(bytes, {.refcount_order = 6});
  const std::vector<std::byte> narrow = amend_safely(wide, {.refcount_order = 0});
  EXPECT_EQ(decode_header(narrow, narrow.size(), "image").refcount_order, 0u);
}

TEST_F(Qcow2Amend, RefcountsThatDoNotFitAreRefused) {
  const std::vector<std::byte> bytes = make("cluster_size=4k", false);
  const auto device = in_memory(bytes);
  const auto image = open(std::make_unique<Borrowed>(*device));
  expect_error(ErrorKind::kLimit, "references",
               [&] { reactor_.run_until_done(amend(*image, {.refcount_order = 0}, {})); });
  EXPECT_EQ(device->content(), bytes);
}

TEST_F(Qcow2Amend, ZeroClustersOfDiskAndSnapshotsGoWithVersion3) {
  for (const bool over_backing : {false, true}) {
    SCOPED_TRACE(over_backing);
    const std::vector<std::byte> made = make("cluster_size=4k,lazy_refcounts=on", over_backing);
    const std::vector<std::byte> bytes = amend_safely(made, {.version = 2});
    const Header header = decode_header(bytes, bytes.size(), "image");
    EXPECT_EQ(header.version, 2u);
    expect_same_for_qemu(made, bytes);
    const std::vector<std::byte> again = amend_safely(bytes, {.version = 3, .lazy_refcounts = true});
    EXPECT_TRUE(decode_header(again, again.size(), "image").lazy_refcounts());
    expect_same_for_qemu(made, again);
  }
}

TEST_F(Qcow2Amend, SeveralAtOnce) {
  const std::vector<std::byte> made = make("cluster_size=4k,compat=0.10", true);
  const std::vector<std::byte> bytes =
      amend_safely(made, {.version = 3, .lazy_refcounts = true, .refcount_order = 5});
  const Header header = decode_header(bytes, bytes.size(), "image");
  EXPECT_EQ(header.version, 3u);
  EXPECT_EQ(header.refcount_order, 5u);
  EXPECT_TRUE(header.lazy_refcounts());
  EXPECT_EQ(header.feature_names, default_feature_names());
  expect_same_for_qemu(made, bytes);
}

TEST_F(Qcow2Amend, BitsThatVersion2ReservesDoNotBecomeZeros) {
  std::vector<std::byte> bytes = make("cluster_size=4k,compat=0.10", false);
  const Header header = decode_header(bytes, bytes.size(), "image");
  const uint64_t l2 = load_be<uint64_t>(bytes.data() + header.l1_table_offset) & ~(uint64_t{1} << 63);
  bytes[l2 + 7] |= std::byte{1};
  const auto device = in_memory(bytes);
  const auto image = open(std::make_unique<Borrowed>(*device));
  expect_error(ErrorKind::kCorrupt, "reserves",
               [&] { reactor_.run_until_done(amend(*image, {.version = 3}, {})); });
  EXPECT_EQ(device->content(), bytes);
}

TEST_F(Qcow2Amend, ACancelledDowngradeLeavesTheImage) {
  const std::vector<std::byte> bytes = make("cluster_size=4k", true);
  const auto device = in_memory(bytes);
  int left = 2;
  {
    const auto image = open(std::make_unique<Borrowed>(*device));
    const std::vector<std::byte> before = content(*image);
    expect_error(ErrorKind::kCancelled, "cancelled", [&] {
      reactor_.run_until_done(amend(*image, {.version = 2}, {.cancelled = [&left] { return left-- == 0; }}));
    });
    EXPECT_EQ(content(*image), before);
  }
  checked(*device);
}

}  // namespace
}  // namespace cofre::qcow2
