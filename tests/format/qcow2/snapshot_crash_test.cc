// Power loss at every moment of creating, applying and deleting a snapshot; errors of the storage at every
// request; writes in flight. The image is as it was before or as it is afterwards.
//
// Refcounts and the copied flags that follow them lie in different clusters, so between two writes a flag may
// disagree with its refcount. That is harmless as long as no cluster with the flag has two users: shown by
// writing everywhere afterwards.
#include <algorithm>

#include "layer/fault.h"
#include "layer/record.h"
#include "snapshot_rig.h"

namespace cofre::qcow2 {
namespace {

enum class Step { kCreate, kApply, kRemove };
constexpr Step kSteps[] = {Step::kCreate, Step::kApply, Step::kRemove};

// What an image may be after a step that perhaps did not come to its end.
struct Outcome {
  std::vector<std::byte> content;
  std::deque<KeptSnapshot> kept;
};

class InterruptedStep {
 public:
  InterruptedStep(const Shape& shape, uint64_t seed, Step step) : rig_(shape, seed), step_(step) {
    rig_.create();
    rig_.open();
    rig_.burst(6);
    rig_.create_snapshot();
    rig_.burst(4);
    rig_.create_snapshot();
    rig_.burst(4);
    rig_.close();
    before_ = {rig_.model(), rig_.kept()};
    initial_ = rig_.file().content();
    after_ = before_;
    if (step == Step::kCreate) after_.kept.push_back({"s2", before_.content});
    if (step == Step::kApply) after_.content = before_.kept[0].content;
    if (step == Step::kRemove) after_.kept.pop_front();
  }

  SnapshotRig& rig() noexcept { return rig_; }
  const std::vector<std::byte>& initial() const noexcept { return initial_; }

  io::task<void> take(Image& image) {
    if (step_ == Step::kApply) return image.apply_snapshot(0);
    if (step_ == Step::kRemove) return image.delete_snapshot(0);
    SnapshotEntry snapshot;
    snapshot.name = "s2";
    return image.create_snapshot(snapshot);
  }

  // `file` holds the image before or after the step; gives whether after.
  bool examine(storage::MemoryDevice& file) {
    expect_no_real_corruption(file);
    const bool done = is_after(file);
    rig_.kept() = (done ? after_ : before_).kept;
    const std::vector<std::byte>& content = (done ? after_ : before_).content;
    rig_.verify_snapshots(file);
    std::unique_ptr<Image> image = rig_.open_over(file, rig_.data_file());
    EXPECT_EQ(rig_.content_of(*image), content);
    // Whoever writes now must not hit a snapshot's cluster.
    const std::vector<std::byte> bytes(image->length_bytes(), std::byte{0xee});
    rig_.run(image->write(0, bytes));
    EXPECT_EQ(rig_.content_of(*image), bytes);
    rig_.run(image->close());
    image.reset();
    rig_.verify_snapshots(file);
    repair(file);
    rig_.verify_snapshots(file);
    return done;
  }

 private:
  bool is_after(storage::MemoryDevice& file) {
    const std::unique_ptr<Image> image = rig_.open_over(file, rig_.data_file(), /*for_check=*/true);
    if (step_ != Step::kApply) return image->snapshots().size() == after_.kept.size();
    const std::unique_ptr<Image> open = rig_.open_over(file, rig_.data_file());
    return rig_.content_of(*open) == after_.content;
  }

  void expect_no_real_corruption(storage::MemoryDevice& file) {
    const std::unique_ptr<Image> image = rig_.open_over(file, rig_.data_file(), /*for_check=*/true);
    if (image->is_dirty()) return;
    std::string said;
    uint64_t flags = 0;
    const CheckResult result = rig_.run(check(*image, {.report = [&](const std::string& finding) {
      said += finding + "\n";
      if (finding.find("copied flag") != std::string::npos) ++flags;
    }}));
    EXPECT_EQ(result.corruptions, flags) << said;
    EXPECT_EQ(result.check_errors, 0u) << said;
  }

  void repair(storage::MemoryDevice& file) {
    const std::unique_ptr<Image> image = rig_.open_over(file, rig_.data_file(), /*for_check=*/true);
    const CheckResult result = rig_.run(check(*image, {.repair_leaks = true, .repair_errors = true}));
    EXPECT_EQ(result.corruptions + result.leaks + result.check_errors, 0u);
  }

  SnapshotRig rig_;
  Step step_;
  std::vector<std::byte> initial_;
  Outcome before_;
  Outcome after_;
};

std::vector<Shape> crash_shapes() {
  std::vector<Shape> shapes;
  const auto add = [&](const char* name, uint32_t bits, uint64_t size) -> Shape& {
    return shapes.emplace_back(shape_of(name, bits, size));
  };
  add("clusters of 512", 9, 192 * kKiB);
  add("clusters of 512 with wide refcounts", 9, 128 * kKiB).create.refcount_order = 6;
  add("clusters of 4096", 12, 256 * kKiB).create.refcount_order = 3;
  add("lazy refcounts", 9, 128 * kKiB).create.lazy_refcounts = true;
  add("subclusters", 14, 512 * kKiB).create.extended_l2 = true;
  add("version 2", 10, 128 * kKiB).create.version = 2;
  add("backing file", 11, 256 * kKiB).backing_bytes = 200 * kKiB;
  add("aes", 10, 128 * kKiB).create.encryption = CryptMethod::kAes;
  add("luks", 12, 128 * kKiB).create.encryption = CryptMethod::kLuks;
  return shapes;
}

// Each moment of one step, with one draw of what unflushed writes left.
void crash_everywhere(const Shape& shape, uint64_t seed, Step step) {
  InterruptedStep interrupted(shape, seed, step);
  SnapshotRig& rig = interrupted.rig();
  layer::RecordDevice record(std::make_unique<Borrowed>(rig.file()), interrupted.initial());
  {
    const std::unique_ptr<Image> image = rig.open_over(record, rig.data_file());
    rig.run(interrupted.take(*image));
  }
  bool done = false;
  const uint64_t stride = std::max<uint64_t>(1, record.moments() / static_cast<uint64_t>(rounds(60)));
  for (uint64_t moment = rig.random()() % stride; moment <= record.moments() + stride; moment += stride) {
    SCOPED_TRACE(testing::Message() << "moment " << moment << " of " << record.moments());
    const auto survivor = record.replay(std::min(moment, record.moments()), rig.random());
    const bool now = interrupted.examine(*survivor);
    if (testing::Test::HasFailure()) return;
    done = done || now;
    if (moment >= record.moments()) EXPECT_TRUE(now) << "what has returned is durable";
  }
  EXPECT_TRUE(done);
}

TEST(SnapshotCrash, LeavesTheStateBeforeOrAfter) {
  const uint64_t seed = test_seed();
  for (const Shape& shape : crash_shapes()) {
    for (const Step step : kSteps) {
      SCOPED_TRACE(testing::Message()
                   << "seed " << seed << " " << shape.name << " step " << static_cast<int>(step));
      crash_everywhere(shape, seed, step);
      if (testing::Test::HasFailure()) return;
    }
  }
}

// The `number`th request fails. Whether it came to that.
bool fail_at(InterruptedStep& interrupted, uint64_t number, layer::RequestKinds kinds, int errno_value) {
  SnapshotRig& rig = interrupted.rig();
  storage::MemoryDevice file(0, "image.qcow2");
  rig.run(file.resize(interrupted.initial().size()));
  file.content() = interrupted.initial();
  uint64_t failures = 0;
  bool reported = false;
  {
    layer::FaultDevice faults(std::make_unique<Borrowed>(file));
    const std::unique_ptr<Image> image = rig.open_over(faults, rig.data_file());
    faults.fail_once(number, kinds, errno_value);
    try {
      rig.run(interrupted.take(*image));
      rig.run(image->close());
    } catch (const Error& error) {
      reported = true;
      EXPECT_NE(error.kind(), ErrorKind::kCorrupt) << error.what();
    }
    failures = faults.failures();
  }
  EXPECT_EQ(reported, failures > 0);
  interrupted.examine(file);
  return failures > 0;
}

TEST(SnapshotCrash, ErrorsOfTheStorage) {
  const uint64_t seed = test_seed();
  for (const Shape& shape : crash_shapes()) {
    for (const Step step : kSteps) {
      InterruptedStep interrupted(shape, seed, step);
      for (const auto& [kinds, errno_value] :
           {std::pair(layer::RequestKinds::changes() | layer::RequestKind::kFlush, 5),
            std::pair(layer::RequestKinds(layer::RequestKind::kRead), 5),
            std::pair(layer::RequestKinds(layer::RequestKind::kWrite), 28)}) {
        for (uint64_t number = 0; number < 400; number += 1 + 1000 / static_cast<uint64_t>(rounds(1000))) {
          SCOPED_TRACE(testing::Message() << "seed " << seed << " " << shape.name << " step "
                                          << static_cast<int>(step) << " request " << number);
          const bool failed = fail_at(interrupted, number, kinds, errno_value);
          if (testing::Test::HasFailure()) return;
          if (!failed) break;
        }
      }
    }
  }
}

// A device some of whose writes take very long.
class Dawdling final : public Borrowed {
 public:
  Dawdling(block::Device& inner, std::mt19937_64& random) : Borrowed(inner), random_(random) {}
  io::task<void> write(uint64_t offset, ConstBytes from, block::WriteFlags flags) override {
    for (uint64_t i = random_() % 8 == 0 ? random_() % 1000 : 0; i > 0; --i) co_await io::yield();
    co_await Borrowed::write(offset, from, flags);
  }

 private:
  std::mt19937_64& random_;
};

io::task<void> write_on(SnapshotRig& rig, const bool& over) {
  while (!over) {
    const ModelRig::Request request = rig.random_request();
    co_await rig.perform(request);
  }
}

io::task<void> take_snapshot(SnapshotRig& rig, std::vector<std::byte>& taken, bool& over) {
  for (uint64_t i = rig.random()() % 200; i > 0; --i) co_await io::yield();
  co_await rig.image().create_snapshot(rig.next());
  const std::unique_ptr<Image> snapshot = co_await rig.opening_snapshot(rig.file(), 0);
  taken.resize(snapshot->length_bytes());
  co_await snapshot->read(0, taken);
  over = true;
}

// Gives what the snapshot reads as at once.
io::task<std::vector<std::byte>> write_beside(SnapshotRig& rig) {
  std::vector<std::byte> taken;
  bool over = false;
  io::TaskGroup group;
  for (int i = 0; i < 4; ++i) group.spawn(write_on(rig, over));
  group.spawn(take_snapshot(rig, taken, over));
  co_await group.join();
  co_return taken;
}

// What a snapshot reads as when it is there does not change any more, whatever was in flight.
TEST(SnapshotCrash, WritesInFlight) {
  const uint64_t seed = test_seed();
  const std::vector<Shape> shapes = crash_shapes();
  for (int i = 0; i < rounds(300); ++i) {
    const Shape& shape = shapes[static_cast<size_t>(i) % shapes.size()];
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i << " " << shape.name);
    SnapshotRig rig(shape, seed + static_cast<uint64_t>(i));
    rig.create();
    Dawdling file(rig.file(), rig.random());
    rig.open_through(file);
    rig.burst(8);
    const std::vector<std::byte> taken = rig.run(write_beside(rig));
    rig.run(rig.image().flush());
    EXPECT_EQ(rig.content_of(*rig.open_snapshot(rig.file(), 0)), taken);
    const std::vector<std::byte> bytes(rig.model().size(), std::byte{0x5a});
    rig.run(rig.image().write(0, bytes));
    rig.run(rig.image().apply_snapshot(0));
    EXPECT_EQ(rig.content_of(rig.image()), taken);
    rig.run(rig.image().delete_snapshot(0));
    EXPECT_EQ(rig.content_of(rig.image()), taken);
    rig.close();
    rig.expect_clean();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace cofre::qcow2
