// Loads of requests: where they go, that all of them arrive, and how they end early.
#include "job/request_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "block/checked.h"
#include "job/scratch_dir.h"
#include "storage/file.h"

namespace cofre::job {
namespace {

using storage::FileDevice;
using test::ScratchDir;

constexpr uint64_t kBlock = 4 * kKiB;

TEST(RequestLoad, ScatteredRequestsMeetEveryPlaceOnce) {
  for (const uint64_t blocks : {1u, 2u, 3u, 7u, 256u, 1000u, 4096u}) {
    const RequestLoad load = {.request_bytes = kBlock,
                              .step_bytes = scattering_step(blocks * kBlock, kBlock),
                              .span_bytes = blocks * kBlock,
                              .count = blocks};
    std::set<uint64_t> offsets;
    for (uint64_t i = 0; i < blocks; ++i) offsets.insert(offset_of_request(load, i));
    EXPECT_EQ(offsets.size(), blocks);
    EXPECT_EQ(*offsets.rbegin(), (blocks - 1) * kBlock);
    EXPECT_EQ(offset_of_request(load, blocks), offset_of_request(load, 0)) << "then it starts again";
  }
}

TEST(RequestLoad, ScatteredRequestsAreFarApart) {
  const uint64_t span = 256 * kMiB;
  const RequestLoad load = {
      .request_bytes = kBlock, .step_bytes = scattering_step(span, kBlock), .span_bytes = span};
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t here = offset_of_request(load, i);
    for (uint64_t before = i - std::min<uint64_t>(i, 16); before < i; ++before) {
      const uint64_t there = offset_of_request(load, before);
      EXPECT_GT(std::max(here, there) - std::min(here, there), kMiB) << i << " and " << before;
    }
  }
}

class RequestLoadOnFile : public testing::Test {
 protected:
  std::unique_ptr<block::Device> make_device(uint64_t bytes) {
    auto device = block::make_checked(FileDevice::create(dir_.path("device"), {}, /*truncate=*/true));
    lanes_.run(device->resize(bytes));
    return device;
  }

  ScratchDir dir_;
  io::Lanes lanes_{3};
};

TEST_F(RequestLoadOnFile, EveryRequestOfALoadArrives) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 8; ++round) {
    const uint64_t blocks = 1 + random() % 300;
    const uint64_t count = random() % (blocks + 1);
    auto device = make_device(blocks * kBlock);
    const RequestLoad load = {.write = true,
                              .request_bytes = kBlock,
                              .step_bytes = scattering_step(blocks * kBlock, kBlock),
                              .span_bytes = blocks * kBlock,
                              .count = count,
                              .in_flight = 1 + static_cast<unsigned>(random() % 20)};
    EXPECT_GT(lanes_.run(run_requests(lanes_, *device, load)), 0);
    lanes_.run(device->close());
    std::set<uint64_t> expected;
    for (uint64_t i = 0; i < count; ++i) expected.insert(offset_of_request(load, i));
    const auto content = test::read_file(dir_.path("device"));
    for (uint64_t offset = 0; offset < blocks * kBlock; offset += kBlock) {
      const auto at = content.begin() + static_cast<ptrdiff_t>(offset);
      const bool written = std::any_of(at, at + kBlock, [](auto byte) { return byte != decltype(byte){}; });
      EXPECT_EQ(written, expected.contains(offset)) << offset;
    }
  }
}

TEST_F(RequestLoadOnFile, ErrorsAndCancellationEndIt) {
  lanes_.run(make_device(kMiB)->close());
  const auto device = block::make_checked(FileDevice::open(dir_.path("device"), {.read_only = true}));
  RequestLoad load = {.request_bytes = kBlock, .step_bytes = kBlock, .span_bytes = kMiB, .count = 1000000};
  const auto kind_of = [&](const RequestLoad& what) {
    try {
      lanes_.run(run_requests(lanes_, *device, what));
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kExists;  // which nothing here throws
  };
  load.progress.cancelled = [] { return true; };
  EXPECT_EQ(kind_of(load), ErrorKind::kCancelled);
  load.progress = {};
  load.write = true;
  EXPECT_EQ(kind_of(load), ErrorKind::kReadOnly);
  load.write = false;
  load.span_bytes = 2 * kMiB;
  EXPECT_EQ(kind_of(load), ErrorKind::kInvalidArgument) << "longer than the device";
  load.span_bytes = kMiB;
  load.in_flight = 0;
  EXPECT_EQ(kind_of(load), ErrorKind::kInvalidArgument) << "none in flight";
  load.in_flight = 1;
  load.start_bytes = kMiB - 1;
  EXPECT_EQ(kind_of(load), ErrorKind::kIo) << "the first request passes the end";
}

// Counts requests that are not over when a flush begins, and flushes.
class FlushWatcher final : public block::Device {
 public:
  explicit FlushWatcher(std::unique_ptr<block::Device> inner) : inner_(std::move(inner)) {}
  const std::string& name() const override { return inner_->name(); }
  const block::Limits& limits() const override { return inner_->limits(); }
  uint64_t length_bytes() const override { return inner_->length_bytes(); }
  io::task<void> read(uint64_t offset, Bytes to) override { return inner_->read(offset, to); }
  io::task<void> write(uint64_t offset, ConstBytes from, block::WriteFlags flags) override {
    ++in_flight_;
    co_await inner_->write(offset, from, flags);
    --in_flight_;
    ++written;
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    return inner_->write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    return inner_->discard(offset, length);
  }
  io::task<void> flush() override {
    ++flushes;
    if (in_flight_ > 0) ++flushes_beside_writes;
    co_await inner_->flush();
  }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_->map(offset, length);
  }
  io::task<void> resize(uint64_t length) override { return inner_->resize(length); }
  io::task<void> close() override { return inner_->close(); }

  std::atomic<int> written = 0;
  std::atomic<int> flushes = 0;
  std::atomic<int> flushes_beside_writes = 0;

 private:
  std::unique_ptr<block::Device> inner_;
  std::atomic<int> in_flight_ = 0;
};

TEST_F(RequestLoadOnFile, FlushesComeBetweenRequests) {
  for (const bool drain : {true, false}) {
    FlushWatcher device(make_device(kMiB));
    const RequestLoad load = {.write = true,
                              .pattern = std::byte{0x5a},
                              .request_bytes = kBlock,
                              .step_bytes = 3000,
                              .start_bytes = 500,
                              .span_bytes = 100'000,
                              .count = 30,
                              .flush_every = 7,
                              .drain_to_flush = drain,
                              .in_flight = 5};
    EXPECT_GT(lanes_.run(run_requests(lanes_, device, load)), 0);
    EXPECT_EQ(device.written, 30);
    EXPECT_EQ(device.flushes, 4);
    if (drain) EXPECT_EQ(device.flushes_beside_writes, 0);
    lanes_.run(device.close());
    const auto content = test::read_file(dir_.path("device"));
    const auto five_a = [](auto byte) { return byte == decltype(byte){0x5a}; };
    EXPECT_TRUE(std::all_of(content.begin() + 500, content.begin() + 500 + 29 * 3000 + kBlock, five_a));
    EXPECT_FALSE(std::any_of(content.begin(), content.begin() + 500, five_a));
  }
}

}  // namespace
}  // namespace cofre::job
