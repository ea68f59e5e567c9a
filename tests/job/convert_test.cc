// What convert does in chosen cases.
#include "job/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "io/simulated_reactor.h"
#include "job/job_control.h"
#include "job/layered_device.h"
#include "storage/memory.h"

namespace cofre::job {
namespace {

using test::LayeredDevice;
using test::Sector;

class ConvertTest : public testing::Test {
 protected:
  ConvertStats run(std::vector<block::Device*> sources, block::Device& target,
                   const ConvertOptions& options) {
    return reactor_.run_until_done(convert_on({&reactor_}, std::move(sources), target, options));
  }
  ErrorKind kind_of_failure(std::vector<block::Device*> sources, block::Device& target,
                            const ConvertOptions& options) {
    try {
      run(std::move(sources), target, options);
    } catch (const Error& error) {
      return error.kind();
    }
    ADD_FAILURE() << "no error";
    return ErrorKind::kIo;
  }

  io::SimulatedReactor reactor_{1};
};

TEST_F(ConvertTest, CopiesMemoryToMemory) {
  storage::MemoryDevice source(3 * kMiB + 1000);
  for (size_t i = 0; i < source.content().size(); ++i)
    source.content()[i] = static_cast<std::byte>(i * 7 / 512);
  storage::MemoryDevice target(source.length_bytes());
  const ConvertStats stats = run({&source}, target, {.target_reads_zero = true});
  EXPECT_EQ(target.content(), source.content());
  EXPECT_EQ(stats.bytes_read, source.length_bytes());
}

TEST_F(ConvertTest, AnEmptySourceIsDoneAtOnce) {
  storage::MemoryDevice source(0);
  storage::MemoryDevice target(0);
  EXPECT_EQ(run({&source}, target, {}).bytes_written, 0u);
}

TEST_F(ConvertTest, NoSourceIsAnError) {
  storage::MemoryDevice target(512);
  EXPECT_EQ(kind_of_failure({}, target, {}), ErrorKind::kInvalidArgument);
}

TEST_F(ConvertTest, ABaseGoesWithOneSourceOnly) {
  LayeredDevice base(512);
  LayeredDevice source(512, "source", &base);
  storage::MemoryDevice target(1024);
  EXPECT_EQ(kind_of_failure({&source, &source}, target, {.source_base = &base}), ErrorKind::kInvalidArgument);
}

TEST_F(ConvertTest, AShorterTargetIsAnErrorAndStaysUntouched) {
  LayeredDevice source(8192);
  source.set(0, 8192, Sector::kData, std::byte{1});
  LayeredDevice target(8191);
  EXPECT_EQ(kind_of_failure({&source}, target, {}), ErrorKind::kInvalidArgument);
  EXPECT_TRUE(target.writes().empty());
}

TEST_F(ConvertTest, ATargetMayLackThePaddingOfTheLastSource) {
  storage::MemoryDevice source(1000);
  source.content()[999] = std::byte{9};
  storage::MemoryDevice target(1000);
  run({&source}, target, {.target_reads_zero = true});
  EXPECT_EQ(target.content(), source.content());
}

TEST_F(ConvertTest, LeavesTheTailAloneUnlessAsked) {
  LayeredDevice source(4096);
  for (const bool zero_tail : {false, true}) {
    LayeredDevice target(3 * kMiB);
    target.set(0, 3 * kMiB, Sector::kData, std::byte{0xee});
    run({&source}, target, {.zero_tail = zero_tail});
    EXPECT_EQ(target.view()[4095], std::byte{0});
    EXPECT_EQ(target.view()[4096], zero_tail ? std::byte{0} : std::byte{0xee});
    EXPECT_EQ(target.view().back(), zero_tail ? std::byte{0} : std::byte{0xee});
  }
}

TEST_F(ConvertTest, LongHolesAreNeverRead) {
  LayeredDevice source(64 * kMiB);
  source.set(40 * kMiB, 512, Sector::kData, std::byte{1});
  LayeredDevice target(64 * kMiB);
  target.mutable_limits().discard_alignment = 65536;
  const ConvertStats stats = run({&source}, target, {.target_reads_zero = true});
  EXPECT_EQ(source.bytes_read(), 65536u);
  EXPECT_EQ(stats.bytes_skipped, 64 * kMiB - 65536);
}

TEST_F(ConvertTest, ZerosGoOverTheBackingFileOnlyWhereThereIsOne) {
  LayeredDevice source(4 * kMiB);
  LayeredDevice backing(kMiB);
  backing.set(0, kMiB, Sector::kData, std::byte{5});
  LayeredDevice target(4 * kMiB, "target", &backing);
  const ConvertStats stats = run({&source}, target, {.target_reads_zero = true, .target_has_backing = true});
  EXPECT_EQ(target.view(), source.view());
  EXPECT_EQ(stats.bytes_zeroed + stats.bytes_skipped, 4 * kMiB);
  EXPECT_EQ(target.sector(0), Sector::kZero);
}

TEST_F(ConvertTest, WholeClustersAreWrittenInOneRequest) {
  LayeredDevice source(8 * kMiB);
  source.set(0, 8 * kMiB, Sector::kData, std::byte{1});
  LayeredDevice target(8 * kMiB);
  target.mutable_limits().discard_alignment = target.mutable_limits().preferred_bytes = 2 * kMiB;
  run({&source}, target, {.target_reads_zero = true});
  EXPECT_EQ(target.writes().size(), 4u);
  for (const LayeredDevice::Request& write : target.writes()) EXPECT_EQ(write.length, 2 * kMiB);
}

TEST_F(ConvertTest, ReadsAndWritesOverlap) {
  LayeredDevice source(32 * kMiB);
  source.set(0, 32 * kMiB, Sector::kData, std::byte{1});
  LayeredDevice target(32 * kMiB);
  run({&source}, target, {.target_reads_zero = true, .parallel = 8});
  EXPECT_GT(source.most_reads_at_once(), 1u);
  EXPECT_GT(target.most_writes_at_once(), 1u);
  EXPECT_LE(source.most_reads_at_once(), 8u);
}

TEST_F(ConvertTest, InOrderStillOverlaps) {
  LayeredDevice source(32 * kMiB);
  source.set(0, 32 * kMiB, Sector::kData, std::byte{1});
  LayeredDevice target(32 * kMiB);
  run({&source}, target, {.target_reads_zero = true, .parallel = 8, .out_of_order = false});
  EXPECT_GT(source.most_reads_at_once(), 1u);
  EXPECT_GT(target.most_writes_at_once(), 1u);
  EXPECT_TRUE(std::ranges::is_sorted(target.writes(), {}, &LayeredDevice::Request::offset));
}

TEST_F(ConvertTest, ProgressRisesToTheEnd) {
  LayeredDevice source(16 * kMiB);
  source.set(0, 8 * kMiB, Sector::kData, std::byte{1});
  LayeredDevice target(16 * kMiB);
  std::vector<uint64_t> reported;
  ConvertOptions options;
  options.progress.report = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, 16 * kMiB);
    EXPECT_EQ(io::Reactor::current(), &reactor_);
    reported.push_back(done);
  };
  run({&source}, target, options);
  ASSERT_GE(reported.size(), 2u);
  EXPECT_EQ(reported.front(), 0u);
  EXPECT_EQ(reported.back(), 16 * kMiB);
  EXPECT_TRUE(std::ranges::is_sorted(reported));
}

TEST(WorkerCount, KeepsBuffersWithinTheirBudget) {
  EXPECT_EQ(worker_count(1000, 2, kMiB), 64u);
  EXPECT_EQ(worker_count(3, 2, kMiB), 3u);
  EXPECT_EQ(worker_count(0, 64, 16 * kMiB), 4u);
  EXPECT_EQ(worker_count(0, 1, 512 * kMiB), 1u);
  EXPECT_GE(worker_count(0, 4, kMiB), 4u);
}

TEST(LaneOfWorker, FewAreAtHome) {
  for (size_t lanes = 1; lanes <= 9; ++lanes) {
    std::vector<size_t> workers(lanes);
    const unsigned count = worker_count(0, lanes, kMiB);
    for (unsigned i = 0; i < count; ++i) ++workers.at(lane_of_worker(i, lanes));
    if (lanes > 1) EXPECT_EQ(workers[0], 1u);
    for (size_t lane = 1; lane < lanes; ++lane) EXPECT_EQ(workers[lane], workers[1]);
    EXPECT_EQ(lane_of_worker(1, lanes), lanes > 1 ? 1u : 0u);
  }
}

}  // namespace
}  // namespace cofre::job
