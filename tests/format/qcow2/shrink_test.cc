// Power is lost at every moment of a shrink: what stays of the disk is never touched, the image is never
// corrupt, and its length is the old or the new one. The end of the disk holds its bytes or reads as zero.
#include <algorithm>
#include <numeric>

#include "layer/record.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kOldBytes = 96 * kKiB;
constexpr uint64_t kNewBytes = 21 * kKiB + 512;

struct Shape {
  std::string name;
  CreateOptions create = {};
};

std::vector<Shape> shapes() {
  std::vector<Shape> list;
  const auto add = [&](const char* name, uint32_t bits) -> CreateOptions& {
    Shape& shape = list.emplace_back(Shape{.name = name});
    shape.create.cluster_bits = bits;
    shape.create.size_bytes = kOldBytes;
    return shape.create;
  };
  add("clusters of 512", 9);
  add("clusters of 512 with wide refcounts", 9).refcount_order = 6;
  add("clusters of 4096", 12);
  add("lazy refcounts", 9).lazy_refcounts = true;
  add("subclusters", 14).extended_l2 = true;
  add("version 2", 9).version = 2;
  return list;
}

class ShrinkRun {
 public:
  ShrinkRun(const Shape& shape, uint64_t seed) : shape_(shape), random_(seed), reactor_(seed) {}

  void run() {
    const std::vector<std::byte> before = make_image();
    auto memory = std::make_unique<storage::MemoryDevice>(before.size(), "image.qcow2");
    memory->content() = before;
    auto recorder = std::make_unique<layer::RecordDevice>(std::move(memory), before);
    layer::RecordDevice& record = *recorder;
    {
      const auto image = reactor_.run_until_done(Image::open(std::make_unique<Borrowed>(record), {}));
      reactor_.run_until_done(image->resize(kNewBytes));
      EXPECT_EQ(image->length_bytes(), kNewBytes);
      reactor_.run_until_done(image->close());
    }
    EXPECT_LE(record.length_bytes(), before.size());
    const uint64_t step = rounds(20) > 1 ? 1 : 1 + record.moments() / 40;
    for (uint64_t moment = 0; moment <= record.moments(); moment += step) {
      SCOPED_TRACE(testing::Message() << shape_.name << ", moment " << moment << " of " << record.moments());
      examine(*record.replay(moment, random_));
      if (testing::Test::HasFailure()) return;
    }
    examine_end(*record.replay(record.moments(), random_));
  }

 private:
  std::vector<std::byte> make_image() {
    storage::MemoryDevice file(0, "image.qcow2");
    reactor_.run_until_done(create_image(file, shape_.create, {}));
    content_.resize(kOldBytes);
    for (std::byte& byte : content_) byte = static_cast<std::byte>(1 + random_() % 255);
    const auto image = reactor_.run_until_done(Image::open(std::make_unique<Borrowed>(file), {}));
    // Out of order, so that clusters that go lie between clusters that stay.
    std::vector<uint64_t> pieces(kOldBytes / 512);
    std::iota(pieces.begin(), pieces.end(), 0);
    std::ranges::shuffle(pieces, random_);
    for (const uint64_t piece : pieces)
      reactor_.run_until_done(image->write(piece * 512, ConstBytes(content_).subspan(piece * 512, 512)));
    reactor_.run_until_done(image->close());
    return file.content();
  }

  CheckResult check_file(block::Device& file) {
    std::string said;
    const auto image = reactor_.run_until_done(
        Image::open(std::make_unique<Borrowed>(file), {.read_only = true, .for_check = true}));
    dirty_ = image->is_dirty();
    const CheckResult result = reactor_.run_until_done(
        check(*image, {.report = [&](const std::string& sentence) { said += sentence + "\n"; }}));
    if (!dirty_) EXPECT_EQ(result.corruptions, 0u) << said;
    return result;
  }

  void examine(block::Device& file) {
    check_file(file);
    const auto image = reactor_.run_until_done(Image::open(std::make_unique<Borrowed>(file), {}));
    const uint64_t length = image->length_bytes();
    ASSERT_TRUE(length == kOldBytes || length == kNewBytes) << length;
    std::vector<std::byte> now(length);
    reactor_.run_until_done(image->read(0, now));
    EXPECT_TRUE(std::equal(now.begin(), now.begin() + kNewBytes, content_.begin()));
    for (uint64_t at = kNewBytes; at < length; at += 512) {
      const ConstBytes sector = ConstBytes(now).subspan(at, 512);
      ASSERT_TRUE(is_zero(sector) || std::ranges::equal(sector, ConstBytes(content_).subspan(at, 512))) << at;
    }
    reactor_.run_until_done(image->resize(kOldBytes + 64 * kKiB));  // also makes use of what was freed
    now.resize(image->length_bytes());
    reactor_.run_until_done(image->write(kOldBytes, ConstBytes(content_).first(32 * kKiB)));
    reactor_.run_until_done(image->read(0, now));
    EXPECT_TRUE(std::equal(now.begin(), now.begin() + kNewBytes, content_.begin()));
    EXPECT_TRUE(std::equal(content_.begin(), content_.begin() + 32 * kKiB, now.begin() + kOldBytes));
    if (length == kNewBytes) EXPECT_TRUE(is_zero(ConstBytes(now).subspan(kNewBytes, kOldBytes - kNewBytes)));
    reactor_.run_until_done(image->close());
    check_file(file);
  }

  void examine_end(block::Device& file) {
    EXPECT_EQ(check_file(file).leaks, 0u) << shape_.name;
    EXPECT_FALSE(dirty_);
  }

  Shape shape_;
  std::mt19937_64 random_;
  io::SimulatedReactor reactor_;
  std::vector<std::byte> content_;
  bool dirty_ = false;
};

TEST(Shrink, ACrashLosesNothingThatStays) {
  uint64_t seed = test_seed();
  for (const Shape& shape : shapes()) {
    ShrinkRun(shape, seed++).run();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace cofre::qcow2
