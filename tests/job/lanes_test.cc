// Jobs on real lanes and real files, with every reactor backend that this machine has.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/test_seed.h"
#include "block/checked.h"
#include "io/lanes.h"
#include "job/compare.h"
#include "job/convert.h"
#include "job/layered_device.h"
#include "job/scratch_dir.h"
#include "storage/file.h"

namespace cofre::job {
namespace {

using storage::FileDevice;
using test::LayeredDevice;
using test::ScratchDir;
using test::Sector;

std::vector<io::Backend> backends() {
  std::vector<io::Backend> all = {io::Backend::kThreads};
  if (io::io_uring_permitted()) all.push_back(io::Backend::kIoUring);
  return all;
}

class JobLanes : public testing::TestWithParam<io::Backend> {};
INSTANTIATE_TEST_SUITE_P(Backends, JobLanes, testing::ValuesIn(backends()), [](const auto& info) {
  return info.param == io::Backend::kThreads ? "threads" : "io_uring";
});

TEST_P(JobLanes, FileToFileAndBack) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDir dir;
  io::Lanes lanes(3, GetParam());
  for (const uint64_t sparse_bytes : {0u, 4096u}) {
    const std::string source_path = dir.sparse_file("source", 20 * kMiB + random() % 10000, random);
    const auto source = block::make_checked(FileDevice::open(source_path, {.read_only = true}));
    auto target = block::make_checked(FileDevice::create(dir.path("target"), {}, /*truncate=*/true));
    lanes.run(target->resize(source->length_bytes()));
    const ConvertStats stats = lanes.run(
        convert(lanes, {source.get()}, *target, {.sparse_bytes = sparse_bytes, .target_reads_zero = true}));
    EXPECT_EQ(stats.bytes_written + stats.bytes_skipped, source->length_bytes());
    EXPECT_EQ(lanes.run(compare(lanes, *source, *target, {})).outcome, CompareOutcome::kIdentical);
    EXPECT_EQ(test::read_file(source_path), test::read_file(dir.path("target")));

    const std::vector<std::byte> byte = {std::byte{1}};
    const uint64_t at = random() % source->length_bytes();
    lanes.run(target->write(at, byte));
    const bool was_one = test::read_file(source_path)[at] == std::byte{1};
    const CompareResult result = lanes.run(compare(lanes, *source, *target, {}));
    EXPECT_EQ(result.outcome, was_one ? CompareOutcome::kIdentical : CompareOutcome::kContentMismatch);
    if (!was_one) EXPECT_EQ(result.offset, at / 512 * 512);
    lanes.run(target->close());
  }
}

TEST_P(JobLanes, LayeredDevicesFromAllLanes) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  io::Lanes lanes(3, GetParam());
  for (int round = 0; round < 4; ++round) {
    LayeredDevice base(6 * kMiB, "base");
    LayeredDevice source(8 * kMiB, "source", &base);
    base.randomize(random, 1000, true);
    source.randomize(random, 1000, true);
    LayeredDevice target(8 * kMiB, "target", &base);
    const ConvertOptions options{.source_base = &base,
                                 .target_reads_zero = true,
                                 .target_has_backing = true,
                                 .parallel = 1 + static_cast<unsigned>(random() % 16),
                                 .out_of_order = round % 2 == 0};
    lanes.run(convert(lanes, {&source}, target, options));
    EXPECT_EQ(target.view(), source.view());
    EXPECT_EQ(lanes.run(compare(lanes, source, target, {})).outcome, CompareOutcome::kIdentical);
  }
}

TEST_P(JobLanes, AFaultOnAnyLaneEndsTheJob) {
  io::Lanes lanes(3, GetParam());
  for (uint64_t offset = 0; offset < 16 * kMiB; offset += 3 * kMiB) {
    for (const bool out_of_order : {true, false}) {
      LayeredDevice source(16 * kMiB, "source");
      source.set(0, 16 * kMiB, Sector::kData, std::byte{1});
      LayeredDevice target(16 * kMiB, "target");
      target.fails = [offset](LayeredDevice::Kind, uint64_t at) { return at == offset; };
      EXPECT_THROW(lanes.run(convert(lanes, {&source}, target, {.out_of_order = out_of_order})), Error);
    }
  }
}

// Requests that complete at once, as those of files in memory: nobody is ever suspended. At home a write
// waits a little as long as no other lane has written.
class InstantDevice final : public block::Device {
 public:
  explicit InstantDevice(uint64_t length) : length_(length) {}
  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return length_; }
  io::task<void> read(uint64_t, Bytes) override { co_return; }
  io::task<void> write(uint64_t, ConstBytes, block::WriteFlags) override {
    if (std::this_thread::get_id() != home_) {
      others_wrote_ = true;
    } else if (!others_wrote_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    co_return;
  }
  io::task<void> write_zeroes(uint64_t, uint64_t, block::WriteFlags) override { co_return; }
  io::task<void> discard(uint64_t, uint64_t) override { co_return; }
  io::task<void> flush() override { co_return; }
  io::task<block::Extent> map(uint64_t, uint64_t length) override {
    co_return block::Extent{.length_bytes = length, .allocated = true, .data = true};
  }
  io::task<void> resize(uint64_t) override { co_return; }
  io::task<void> close() override { co_return; }
  bool others_wrote() const { return others_wrote_; }

 private:
  std::string name_ = "instant";
  block::Limits limits_;
  uint64_t length_;
  std::thread::id home_ = std::this_thread::get_id();
  std::atomic<bool> others_wrote_ = false;
};

TEST_P(JobLanes, InstantTransfersAtHomeLeaveWorkToTheOthers) {
  io::Lanes lanes(2, GetParam());
  InstantDevice source(2 * kGiB);
  InstantDevice target(2 * kGiB);
  lanes.run(convert(lanes, {&source}, target, {.sparse_bytes = 0}));
  EXPECT_TRUE(target.others_wrote());
}

TEST_P(JobLanes, CancelledFromAnotherThreadsFlag) {
  io::Lanes lanes(2, GetParam());
  LayeredDevice source(64 * kMiB, "source");
  source.set(0, 64 * kMiB, Sector::kData, std::byte{1});
  LayeredDevice target(64 * kMiB, "target");
  uint64_t last = 0;
  ConvertOptions options;
  options.progress.report = [&](uint64_t done, uint64_t) {
    EXPECT_GE(done, last);
    EXPECT_EQ(io::Reactor::current(), &lanes.home());
    last = done;
  };
  options.progress.cancelled = [&] { return target.writes().size() > 5; };
  options.parallel = 1;
  EXPECT_THROW(lanes.run(convert(lanes, {&source}, target, options)), Error);
  EXPECT_LT(target.writes().size(), 64u);
}

}  // namespace
}  // namespace cofre::job
