// Power is lost at a random moment between, and in the middle of, random requests: what the disk is left with
// opens, has no corruption, and holds every byte that a flush confirmed and that was not touched since.
#include <algorithm>
#include <deque>

#include "model_rig.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kSector = 512;

// What each sector may hold: first what was last known to be durable, then what later writes put there.
class SectorHistory {
 public:
  explicit SectorHistory(const std::vector<std::byte>& content) : possible_(content.size() / kSector) {
    for (size_t i = 0; i < possible_.size(); ++i) {
      const auto at = content.begin() + static_cast<ptrdiff_t>(i * kSector);
      possible_[i].push_back({{at, at + kSector}, 0, 0});
    }
  }

  uint64_t tick() { return ++now_; }

  // A request begins to put these bytes there (zero if none are given).
  void begin(uint64_t offset, uint64_t length, const std::vector<std::byte>* bytes, uint64_t id) {
    for (uint64_t at = offset; at < offset + length; at += kSector) {
      State state{std::vector<std::byte>(kSector), id, kNever};
      if (bytes != nullptr)
        std::copy_n(bytes->begin() + static_cast<ptrdiff_t>(at - offset), kSector, state.bytes.begin());
      possible_[at / kSector].push_back(std::move(state));
    }
  }
  void end(uint64_t offset, uint64_t length, uint64_t id) {
    const uint64_t now = tick();
    for (uint64_t at = offset; at < offset + length; at += kSector)
      for (State& state : possible_[at / kSector])
        if (state.begun == id) state.ended = now;
  }
  // A flush that began at `begun` has come to its end: of each sector, what was complete by then and written
  // over before is history.
  void flushed(uint64_t begun) {
    for (std::deque<State>& states : possible_) {
      uint64_t last_begun = 0;  // of the latest state that is durable now
      for (const State& state : states)
        if (state.ended <= begun) last_begun = std::max(last_begun, state.begun);
      std::erase_if(states, [&](const State& state) { return state.ended < last_begun; });
    }
  }

  void expect_possible(const std::vector<std::byte>& content) const {
    for (size_t i = 0; i < possible_.size(); ++i) {
      const ConstBytes now = ConstBytes(content).subspan(i * kSector, kSector);
      const bool found =
          std::ranges::any_of(possible_[i], [&](const State& s) { return std::ranges::equal(s.bytes, now); });
      ASSERT_TRUE(found) << "the sector at " << i * kSector << " holds none of its " << possible_[i].size()
                         << " possible contents";
    }
  }

 private:
  static constexpr uint64_t kNever = UINT64_MAX;
  struct State {
    std::vector<std::byte> bytes;
    uint64_t begun;
    uint64_t ended;
  };
  std::vector<std::deque<State>> possible_;
  uint64_t now_ = 0;
};

class CrashRun {
 public:
  CrashRun(const Shape& shape, uint64_t seed) : rig_(shape, seed) {}

  void run() {
    rig_.create();
    rig_.open();
    for (uint64_t i = rig_.random()() % 4; i > 0; --i) rig_.burst(3);  // some content that is there before
    rig_.run(rig_.image().flush());
    rig_.file().start_recording();
    rig_.data_file().start_recording();
    history_.emplace(rig_.model());
    crash_at_ = 1 + rig_.random()() % 300;
    rig_.run(traffic(*this));
    rig_.drop();
    if (survivor_) examine();
  }

 private:
  static constexpr int kClients = 4;

  static io::task<void> traffic(CrashRun& run) {
    io::TaskGroup group;
    for (int i = 0; i < kClients; ++i) group.spawn(client(run));
    group.spawn(crash(run));
    co_await group.join();
  }

  static io::task<void> client(CrashRun& run) {
    for (int i = 0; i < 12 && !run.survivor_; ++i) {
      if (run.rig_.random()() % 4 == 0) {
        const uint64_t begun = run.history_->tick();
        co_await run.rig_.image().flush();
        if (!run.survivor_) run.history_->flushed(begun);
        continue;
      }
      const ModelRig::Request request = run.rig_.random_request();
      const ModelRig::Effect effect = run.rig_.effect_of(request);
      const uint64_t length = effect.end - effect.begin;
      const uint64_t id = run.history_->tick();
      run.history_->begin(effect.begin, length, request.bytes.empty() ? nullptr : &request.bytes, id);
      co_await run.rig_.perform(request);
      if (run.survivor_) co_return;
      run.history_->end(effect.begin, length, id);
      if (request.flags.fua && request.kind != ModelRig::Kind::kDiscard) run.history_->flushed(id);
    }
  }

  // After a number of turns of the reactor, takes what the disks would hold had power gone then.
  static io::task<void> crash(CrashRun& run) {
    for (uint64_t i = 0; i < run.crash_at_; ++i) co_await io::yield();
    run.survivor_ = run.rig_.file().after_power_loss(run.rig_.random());
    run.data_survivor_ = run.rig_.data_file().after_power_loss(run.rig_.random());
  }

  void examine() {
    rig_.check_over_unless_dirty(*survivor_);
    const std::unique_ptr<Image> image = rig_.open_over(*survivor_, *data_survivor_);  // repairs if dirty
    std::vector<std::byte> now(rig_.model().size());
    rig_.run(image->read(0, now));
    history_->expect_possible(now);
    // It can be used: the new writes stay where they belong.
    rig_.run(image->write(0, ConstBytes(now).first(kSector)));
    rig_.run(image->close());
    rig_.check_over(*survivor_);
  }

  ModelRig rig_;
  std::optional<SectorHistory> history_;
  uint64_t crash_at_ = 0;
  std::unique_ptr<storage::MemoryDevice> survivor_;
  std::unique_ptr<storage::MemoryDevice> data_survivor_;
};

std::vector<Shape> crash_shapes() {
  std::vector<Shape> shapes;
  const auto add = [&](const char* name, uint32_t bits, uint64_t size) -> Shape& {
    return shapes.emplace_back(shape_of(name, bits, size));
  };
  add("clusters of 512", 9, 256 * kKiB);
  add("clusters of 512 with wide refcounts", 9, 256 * kKiB).create.refcount_order = 6;
  add("clusters of 4096", 12, 256 * kKiB);
  add("clusters of 4096 with narrow refcounts", 12, 256 * kKiB).create.refcount_order = 1;
  add("lazy refcounts", 9, 256 * kKiB).create.lazy_refcounts = true;
  add("subclusters", 14, 512 * kKiB).create.extended_l2 = true;
  add("version 2", 10, 256 * kKiB).create.version = 2;
  Shape& backed = add("backing file", 11, 256 * kKiB);
  backed.backing_bytes = 200 * kKiB;
  Shape& backed_subclusters = add("subclusters over a backing file", 14, 512 * kKiB);
  backed_subclusters.create.extended_l2 = true;
  backed_subclusters.backing_bytes = 300 * kKiB;
  add("data file", 12, 256 * kKiB).create.data_file = "data.raw";
  add("aes", 10, 128 * kKiB).create.encryption = CryptMethod::kAes;
  return shapes;
}

TEST(Crash, LosesNothingThatWasFlushed) {
  const uint64_t seed = test_seed();
  const std::vector<Shape> shapes = crash_shapes();
  for (int i = 0; i < rounds(4000); ++i) {
    const Shape& shape = shapes[static_cast<size_t>(i) % shapes.size()];
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i << " " << shape.name);
    CrashRun(shape, seed + static_cast<uint64_t>(i)).run();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace cofre::qcow2
