// A transfer that takes long while the mapping changes under it: its host cluster is not given to anybody
// else before it ends. And what was found to be metadata is never written over.
#include "format/qcow2/state.h"
#include "layout.h"
#include "model_rig.h"

namespace cofre::qcow2 {
namespace {

// Holds reads or writes at one offset until the gate is opened.
class Gate final : public Borrowed {
 public:
  using Borrowed::Borrowed;
  void hold(uint64_t offset, bool writes) {
    held_ = offset;
    hold_writes_ = writes;
  }
  bool waiting() const { return !queue_.empty(); }
  void open_gate() {
    held_ = UINT64_MAX;
    queue_.wake_all();
  }

  io::task<void> read(uint64_t offset, Bytes to) override {
    if (!hold_writes_ && offset == held_) co_await queue_.wait();
    co_await inner().read(offset, to);
  }
  io::task<void> write(uint64_t offset, ConstBytes from, block::WriteFlags flags) override {
    if (hold_writes_ && offset == held_) co_await queue_.wait();
    co_await inner().write(offset, from, flags);
  }

 private:
  uint64_t held_ = UINT64_MAX;
  bool hold_writes_ = false;
  io::WaitQueue queue_;
};

constexpr uint64_t kCluster = 4096;

class Transfers : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  std::unique_ptr<Image> open() {
    auto gate = std::make_unique<Gate>(file_);
    gate_ = gate.get();
    return run(Image::open(std::move(gate), {}));
  }
  void create(uint64_t size = kMiB) {
    CreateOptions options;
    options.size_bytes = size;
    options.cluster_bits = 12;
    run(create_image(file_, options, {}));
  }
  static std::vector<std::byte> filled(int value, uint64_t length = kCluster) {
    return std::vector<std::byte>(length, static_cast<std::byte>(value));
  }
  uint64_t host_of(Image& image, uint64_t guest) {
    return run(image.map(guest, kCluster)).host_offset.value();
  }

  io::SimulatedReactor reactor_{test_seed()};
  storage::MemoryDevice file_{0, "image.qcow2"};
  Gate* gate_ = nullptr;
};

io::task<void> give_up_and_reuse(Image& image, Gate& gate, std::vector<std::byte> fresh) {
  while (!gate.waiting()) co_await io::yield();
  co_await image.discard(0, kCluster);
  for (int i = 0; i < 3; ++i) co_await image.flush();
  for (uint64_t i = 1; i <= 8; ++i) co_await image.write(i * kCluster, fresh);
  for (int i = 0; i < 20; ++i) co_await io::yield();
  gate.open_gate();
}

io::task<void> both(io::task<void> a, io::task<void> b) {
  io::TaskGroup group;
  group.spawn(std::move(a));
  group.spawn(std::move(b));
  co_await group.join();
}

TEST_F(Transfers, SlowWriteDoesNotReachTheClustersNextOwner) {
  create();
  const std::unique_ptr<Image> image = open();
  run(image->write(0, filled(1)));
  gate_->hold(host_of(*image, 0), /*writes=*/true);
  const std::vector<std::byte> late = filled(2);
  run(both(image->write(0, late), give_up_and_reuse(*image, *gate_, filled(3))));
  for (uint64_t i = 1; i <= 8; ++i) {
    std::vector<std::byte> now(kCluster);
    run(image->read(i * kCluster, now));
    EXPECT_EQ(now, filled(3)) << "cluster " << i;
  }
  run(image->close());
}

TEST_F(Transfers, SlowReadDoesNotSeeTheClustersNextOwner) {
  create();
  const std::unique_ptr<Image> image = open();
  run(image->write(0, filled(1)));
  gate_->hold(host_of(*image, 0), /*writes=*/false);
  std::vector<std::byte> late(kCluster);
  run(both(image->read(0, late), give_up_and_reuse(*image, *gate_, filled(3))));
  EXPECT_NE(late, filled(3));
  run(image->close());
}

TEST_F(Transfers, FreedClustersAreUsedAgain) {
  create();
  const std::unique_ptr<Image> image = open();
  const std::vector<std::byte> content = filled(1, 64 * kKiB);
  for (int round = 0; round < 50; ++round) {
    run(image->write(0, content));
    run(image->discard(0, content.size()));
    run(image->flush());
  }
  run(image->close());
  EXPECT_LT(file_.length_bytes(), 256 * kKiB);
}

// ---- metadata that the image's own tables call free, or guest data ----

class Protection : public Transfers {
 protected:
  Layout layout() { return Layout{file_.content()}; }
  // An image with something in it, damaged; then a write to `offset` fails, and the tables are as they were.
  void expect_refused(const std::function<void(Layout)>& damage, uint64_t offset) {
    run(file_.resize(0));
    create();
    {
      const std::unique_ptr<Image> image = open();
      run(image->write(0, filled(1, 4 * kCluster)));
      run(image->close());
    }
    damage(layout());
    const std::vector<std::byte> before = file_.content();
    {
      const std::unique_ptr<Image> image = open();
      expect_error(ErrorKind::kCorrupt, "image.qcow2", [&] { run(image->write(offset, filled(9))); });
      EXPECT_TRUE(image->is_corrupt());
      expect_error(ErrorKind::kCorrupt, "no more writes", [&] { run(image->write(256 * kKiB, filled(9))); });
    }
    std::vector<std::byte> after = file_.content();
    EXPECT_EQ(Layout{after}.get<uint64_t>(72), kCorrupt);
    Layout{after}.put<uint64_t>(72, 0);
    after.resize(before.size());
    EXPECT_TRUE(after == before);
    expect_error(ErrorKind::kCorrupt, "marked corrupt", [&] { open(); });
  }
};

TEST_F(Protection, TablesThatRefcountsCallFree) {
  expect_refused([](Layout q) { q.set_refcount(q.l1() / kCluster, 0); }, 512 * kKiB);
  expect_refused([](Layout q) { q.set_refcount(q.l2() / kCluster, 0); }, 512 * kKiB);
  expect_refused([](Layout q) { q.set_refcount(q.refcount_block() / kCluster, 0); }, 512 * kKiB);
  expect_refused([](Layout q) { q.set_refcount(q.refcount_table() / kCluster, 0); }, 512 * kKiB);
  expect_refused([](Layout q) { q.set_refcount(0, 0); }, 512 * kKiB);
}

TEST_F(Protection, GuestClustersMappedOntoTables) {
  for (const uint64_t zero_flag : {0, 1}) {
    expect_refused([&](Layout q) { q.put<uint64_t>(q.l2(), q.l1() | Layout::kCopied | zero_flag); }, 0);
    expect_refused([&](Layout q) { q.put<uint64_t>(q.l2(), q.l2() | Layout::kCopied | zero_flag); }, 0);
    expect_refused(
        [&](Layout q) { q.put<uint64_t>(q.l2(), q.refcount_block() | Layout::kCopied | zero_flag); }, 0);
    expect_refused([&](Layout q) { q.put<uint64_t>(q.l2(), q.refcount_table() | zero_flag); }, 0);
  }
}

TEST_F(Protection, TablesAreNotGivenUpByDiscards) {
  for (const bool zeroing : {false, true}) {
    run(file_.resize(0));
    create();
    {
      const std::unique_ptr<Image> image = open();
      run(image->write(0, filled(1)));
      run(image->close());
    }
    layout().put<uint64_t>(layout().l2(), layout().l1() | Layout::kCopied);
    const std::unique_ptr<Image> image = open();
    expect_error(ErrorKind::kCorrupt, "metadata", [&] {
      run(zeroing ? image->write_zeroes(0, kCluster, {.may_unmap = true}) : image->discard(0, kCluster));
    });
  }
}

}  // namespace
}  // namespace cofre::qcow2
