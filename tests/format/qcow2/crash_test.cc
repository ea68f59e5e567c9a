// Power is lost at a random moment between, and in the middle of, random requests: what the disk is left with
// opens, has no corruption, and holds every byte that a flush confirmed and that was not touched since.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "format/luks/peer_tools.h"
#include "model_rig.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kSector = 512;

// What each sector may hold: first what was last known to be durable, then what later writes put there.
// Copies share the bytes.
class SectorHistory {
 public:
  explicit SectorHistory(const std::vector<std::byte>& content) : possible_(content.size() / kSector) {
    for (size_t i = 0; i < possible_.size(); ++i)
      possible_[i].push_back({sector_of(ConstBytes(content).subspan(i * kSector, kSector)), 0, 0});
  }

  uint64_t tick() { return ++now_; }

  // A request begins to put these bytes there (zero if none are given).
  void begin(uint64_t offset, uint64_t length, const std::vector<std::byte>* bytes, uint64_t id) {
    const Sector zeroes = std::make_shared<const std::vector<std::byte>>(kSector);
    for (uint64_t at = offset; at < offset + length; at += kSector) {
      const Sector sector =
          bytes == nullptr ? zeroes : sector_of(ConstBytes(*bytes).subspan(at - offset, kSector));
      possible_[at / kSector].push_back({sector, id, kNever});
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
    for (std::vector<State>& states : possible_) {
      uint64_t last_begun = 0;  // of the latest state that is durable now
      for (const State& state : states)
        if (state.ended <= begun) last_begun = std::max(last_begun, state.begun);
      std::erase_if(states, [&](const State& state) { return state.ended < last_begun; });
    }
  }

  void expect_possible(const std::vector<std::byte>& content) const {
    for (size_t i = 0; i < possible_.size(); ++i) {
      const ConstBytes now = ConstBytes(content).subspan(i * kSector, kSector);
      const bool found = std::ranges::any_of(
          possible_[i], [&](const State& s) { return std::ranges::equal(*s.bytes, now); });
      ASSERT_TRUE(found) << "the sector at " << i * kSector << " holds none of its " << possible_[i].size()
                         << " possible contents";
    }
  }

 private:
  static constexpr uint64_t kNever = UINT64_MAX;
  using Sector = std::shared_ptr<const std::vector<std::byte>>;
  struct State {
    Sector bytes;
    uint64_t begun;
    uint64_t ended;
  };
  static Sector sector_of(ConstBytes bytes) {
    return std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
  }

  std::vector<std::vector<State>> possible_;
  uint64_t now_ = 0;
};

// What the disks would hold had power gone at one moment, and what each sector may hold then.
struct PowerLoss {
  std::unique_ptr<storage::MemoryDevice> file;
  std::unique_ptr<storage::MemoryDevice> data_file;
  SectorHistory history;
};

class CrashRun {
 public:
  CrashRun(const Shape& shape, uint64_t seed) : rig_(shape, seed) {}

  static inline size_t asked_qemu = 0;
  // The number of power losses that were looked at.
  size_t run() {
    rig_.create();
    rig_.open();
    for (uint64_t i = rig_.random()() % 4; i > 0; --i) rig_.burst(3);  // some content that is there before
    rig_.run(rig_.image().flush());
    rig_.file().start_recording();
    rig_.data_file().start_recording();
    history_.emplace(rig_.model());
    rig_.run(traffic(*this));
    rig_.drop();
    for (size_t i = 0; i < losses_.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "power loss " << i << " of " << losses_.size());
      examine(losses_[i]);
      if (testing::Test::HasFailure()) break;
    }
    return losses_.size();
  }

 private:
  static constexpr int kClients = 4;
  static constexpr int kRequests = 12;       // of each client
  static constexpr uint64_t kMostTurns = 8;  // of the reactor, between two losses

  static io::task<void> traffic(CrashRun& run) {
    io::TaskGroup group;
    run.working_ = kClients;
    for (int i = 0; i < kClients; ++i) group.spawn(client(run));
    group.spawn(lose_power(run));
    co_await group.join();
  }

  static io::task<void> client(CrashRun& run) {
    for (int i = 0; i < kRequests; ++i) co_await run.step();
    --run.working_;
  }

  io::task<void> step() {
    if (rig_.random()() % 4 == 0) {
      const uint64_t begun = history_->tick();
      co_await rig_.image().flush();
      history_->flushed(begun);
      co_return;
    }
    const ModelRig::Request request = rig_.random_request();
    const ModelRig::Effect effect = rig_.effect_of(request);
    const uint64_t length = effect.end - effect.begin;
    const uint64_t id = history_->tick();
    history_->begin(effect.begin, length, request.bytes.empty() ? nullptr : &request.bytes, id);
    co_await rig_.perform(request);
    history_->end(effect.begin, length, id);
    if (request.flags.fua && request.kind != ModelRig::Kind::kDiscard) history_->flushed(id);
  }

  // Now and then, takes what the disks would hold had power gone then.
  static io::task<void> lose_power(CrashRun& run) {
    std::mt19937_64& random = run.rig_.random();
    while (run.working_ > 0) {
      for (uint64_t i = 1 + random() % kMostTurns; i > 0; --i) co_await io::yield();
      run.losses_.push_back({run.rig_.file().after_power_loss(random),
                             run.rig_.data_file().after_power_loss(random), *run.history_});
    }
  }

  void examine(PowerLoss& loss) {
    rig_.check_over_unless_dirty(*loss.file);
    if (rig_.random()() % 500 == 0) expect_qemu_finds_no_corruption(*loss.file);
    const std::unique_ptr<Image> image = rig_.open_over(*loss.file, *loss.data_file);  // repairs if dirty
    std::vector<std::byte> now(rig_.model().size());
    rig_.run(image->read(0, now));
    loss.history.expect_possible(now);
    // It can be used: the new writes stay where they belong.
    rig_.run(image->write(0, ConstBytes(now).first(kSector)));
    rig_.run(image->close());
    rig_.check_over(*loss.file);
  }

  // qemu-img wants the key even for a check, and the data file.
  void expect_qemu_finds_no_corruption(storage::MemoryDevice& file) {
    if (!rig_.plain() || rig_.is_dirty(file)) return;
    const luks::ScratchFolder folder;
    const auto& content = file.content();
    const std::string path =
        folder.write("image.qcow2", {reinterpret_cast<const char*>(content.data()), content.size()});
    const luks::Outcome said = luks::run_program(
        {"qemu-img", "check", "--image-opts", "driver=qcow2,backing=,file.filename=" + path});
    EXPECT_TRUE(said.status == 0 || said.status == 3) << said.status << ": " << said.output;
    ++asked_qemu;
  }

  ModelRig rig_;
  std::optional<SectorHistory> history_;
  int working_ = 0;
  std::vector<PowerLoss> losses_;
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
  add("luks", 12, 128 * kKiB).create.encryption = CryptMethod::kLuks;
  Shape& encrypted_subclusters = add("subclusters with luks", 14, 256 * kKiB);
  encrypted_subclusters.create.encryption = CryptMethod::kLuks;
  encrypted_subclusters.create.extended_l2 = true;
  return shapes;
}

// A loss of these takes as long as ten of the others: their files are larger.
const Shape& large_shape(uint64_t seed) {
  static const Shape shapes[] = {shape_of("clusters of 64 KiB", 16, kMiB),
                                 shape_of("clusters of 2 MiB", 21, 4 * kMiB)};
  return shapes[seed / 50 % 2];
}

TEST(Crash, LosesNothingThatWasFlushed) {
  const uint64_t seed = test_seed();
  const std::vector<Shape> shapes = crash_shapes();
  size_t losses = 0;
  for (int i = 0; i < rounds(4500); ++i) {
    const uint64_t run_seed = seed + static_cast<uint64_t>(i);
    const Shape& shape = run_seed % 50 == 0 ? large_shape(run_seed) : shapes[run_seed % shapes.size()];
    SCOPED_TRACE(testing::Message() << "COFRE_TEST_SEED=" << run_seed << " replays it first: " << shape.name);
    losses += CrashRun(shape, run_seed).run();
    if (testing::Test::HasFailure()) return;
  }
  std::printf("%zu power losses; qemu-img checked what %zu left\n", losses, CrashRun::asked_qemu);
}

}  // namespace
}  // namespace cofre::qcow2
