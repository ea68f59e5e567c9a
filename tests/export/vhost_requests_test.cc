// Requests of virtio block devices over vhost-user: each kind, and many at random against a model, on several
// queues of both layouts.
#include <gtest/gtest.h>
#include <poll.h>

#include <random>

#include "base/test_seed.h"
#include "base/units.h"
#include "export/vhost_device_thread.h"
#include "export/vhost_random_driver.h"
#include "layer/fault.h"
#include "storage/memory.h"

namespace cofre::vhost::testing {
namespace {

constexpr uint64_t kDiskBytes = 8 * kMiB;

// Waits until the device has done something.
UsedBuffer wait_used(DriverQueue& queue) {
  while (true) {
    if (const auto used = queue.take_used()) return *used;
    if (!queue.request_calls()) continue;
    pollfd waiting = {.fd = queue.call_fd(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 30'000) != 1) throw std::runtime_error("the device does not answer");
    uint64_t calls = 0;
    if (::read(queue.call_fd(), &calls, sizeof calls) < 0) throw std::runtime_error("read");
    queue.suppress_calls();
  }
}

class OneQueue : public ::testing::TestWithParam<Kind> {
 protected:
  OneQueue() { device_.mutable_limits().request_alignment = kSectorBytes; }

  void start(DeviceSettings settings = {}, uint64_t unwanted = 0) {
    thread_.emplace(layered_ ? *layered_ : static_cast<block::Device&>(device_), std::move(pair_.device),
                    std::move(settings));
    if (!GetParam().packed) unwanted |= feature::kRingPacked;
    if (!GetParam().event_index) unwanted |= feature::kEventIndex;
    features_ = front_end_.negotiate(unwanted);
    front_end_.share(memory_);
    front_end_.set_up(0, queue_, FrontEnd::first_base(GetParam().packed));
  }
  ~OneQueue() override { front_end_.hang_up(); }

  RequestStatus run(RequestType type, uint64_t sector, uint32_t bytes, uint32_t pieces = 1,
                    bool indirect = false) {
    const auto buffers = request_.make(type, sector, bytes, pieces);
    const auto id = queue_.add(buffers, indirect);
    if (!id) throw std::runtime_error("the ring is full");
    if (queue_.publish()) queue_.kick();
    last_ = wait_used(queue_);
    EXPECT_EQ(last_.id, *id);
    return request_.status();
  }
  void fill(uint8_t value, size_t bytes) { std::fill_n(request_.data(), bytes, std::byte{value}); }
  // Of the disk, once the device has done all it was asked for: a message tells, also those who look for
  // races.
  std::vector<std::byte>& content() {
    front_end_.ask(Message::kGetQueueNumber);
    return device_.content();
  }
  // Puts the ranges of a discard into the request's data.
  uint32_t ranges(std::vector<std::array<uint64_t, 2>> ranges, uint32_t flags = 0) {
    for (size_t i = 0; i < ranges.size(); ++i) {
      store_le(request_.data() + i * 16, ranges[i][0]);
      store_le(request_.data() + i * 16 + 8, static_cast<uint32_t>(ranges[i][1]));
      store_le(request_.data() + i * 16 + 12, flags);
    }
    return static_cast<uint32_t>(ranges.size() * 16);
  }

  storage::MemoryDevice device_{kDiskBytes};
  block::Device* layered_ = nullptr;
  TestMemory memory_{16 * kMiB};
  SocketPair pair_;
  std::optional<DeviceThread> thread_;
  FrontEnd front_end_{std::move(pair_.front_end)};
  DriverQueue queue_{memory_, 64, {GetParam().packed, GetParam().event_index}};
  BlockRequest request_{memory_, 2 * kMiB + 4096};
  uint64_t features_ = 0;
  UsedBuffer last_;
};

TEST_P(OneQueue, ReadsAndWrites) {
  start();
  fill(0x5a, 4096);
  EXPECT_EQ(run(RequestType::kOut, 8, 4096), RequestStatus::kOk);
  EXPECT_EQ(last_.length, 1u);
  EXPECT_EQ(content()[4095], std::byte{0});
  EXPECT_EQ(content()[4096], std::byte{0x5a});
  EXPECT_EQ(content()[8191], std::byte{0x5a});
  EXPECT_EQ(content()[8192], std::byte{0});
  fill(0, 8192);
  EXPECT_EQ(run(RequestType::kIn, 7, 1024), RequestStatus::kOk);
  EXPECT_EQ(last_.length, 1025u);
  EXPECT_EQ(request_.data()[511], std::byte{0});
  EXPECT_EQ(request_.data()[512], std::byte{0x5a});
}

TEST_P(OneQueue, ReadsThroughMemoryThatTheGuestDoesNotSee) {
  start({.private_reads = true});
  fill(0x11, 2 * kMiB);
  EXPECT_EQ(run(RequestType::kOut, 0, 2 * kMiB, 7), RequestStatus::kOk);
  fill(0, 2 * kMiB);
  EXPECT_EQ(run(RequestType::kIn, 0, 2 * kMiB, 5), RequestStatus::kOk);
  EXPECT_EQ(request_.data()[0], std::byte{0x11});
  EXPECT_EQ(request_.data()[2 * kMiB - 1], std::byte{0x11});
}

TEST_P(OneQueue, RequestsInAnyPieces) {
  start();
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const bool indirect : {false, true}) {
    for (const uint32_t pieces : {1u, 2u, 3u, 30u}) {
      for (size_t i = 0; i < 65536; ++i) request_.data()[i] = static_cast<std::byte>(random());
      const std::vector<std::byte> written(request_.data(), request_.data() + 65536);
      EXPECT_EQ(run(RequestType::kOut, 16, 65536, pieces, indirect), RequestStatus::kOk);
      fill(0, 65536);
      EXPECT_EQ(run(RequestType::kIn, 16, 65536, pieces, indirect), RequestStatus::kOk);
      EXPECT_TRUE(std::equal(written.begin(), written.end(), request_.data()));
    }
  }
}

TEST_P(OneQueue, RequestsBeyondTheEndFail) {
  start();
  const uint64_t sectors = kDiskBytes / 512;
  EXPECT_EQ(run(RequestType::kIn, sectors - 1, 512), RequestStatus::kOk);
  EXPECT_EQ(run(RequestType::kIn, sectors - 1, 1024), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kOut, sectors, 512), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kOut, UINT64_MAX, 512), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kIn, UINT64_MAX / 512, 512), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kIn, 0, 100), RequestStatus::kIoError);
  EXPECT_EQ(run(static_cast<RequestType>(77), 0, 512), RequestStatus::kUnsupported);
  EXPECT_EQ(run(RequestType::kIn, 0, 512), RequestStatus::kOk);
}

TEST_P(OneQueue, FlushAndSerial) {
  start({.serial = "disk-0123456789"});
  EXPECT_EQ(run(RequestType::kFlush, 0, 0), RequestStatus::kOk);
  fill(0xff, 64);
  EXPECT_EQ(run(RequestType::kGetId, 0, 20), RequestStatus::kOk);
  EXPECT_STREQ(reinterpret_cast<const char*>(request_.data()), "disk-0123456789");
  EXPECT_EQ(request_.data()[19], std::byte{0});
  EXPECT_EQ(request_.data()[20], std::byte{0xff});
}

TEST_P(OneQueue, ZeroesAndDiscards) {
  start();
  std::ranges::fill(content(), std::byte{1});
  EXPECT_EQ(run(RequestType::kWriteZeroes, 0, ranges({{2, 2}, {10, 1}})), RequestStatus::kOk);
  EXPECT_EQ(content()[1023], std::byte{1});
  EXPECT_EQ(content()[1024], std::byte{0});
  EXPECT_EQ(content()[2047], std::byte{0});
  EXPECT_EQ(content()[2048], std::byte{1});
  EXPECT_EQ(content()[5120], std::byte{0});
  EXPECT_EQ(run(RequestType::kWriteZeroes, 0, ranges({{4, 1}}, 1)), RequestStatus::kOk);
  EXPECT_EQ(run(RequestType::kWriteZeroes, 0, ranges({{4, 1}}, 2)), RequestStatus::kUnsupported);
  EXPECT_EQ(run(RequestType::kDiscard, 0, ranges({{4, 1}})), RequestStatus::kOk);
  EXPECT_EQ(run(RequestType::kDiscard, 0, ranges({{4, 1}}, 1)), RequestStatus::kUnsupported);
  EXPECT_EQ(run(RequestType::kDiscard, 0, ranges({{kDiskBytes / 512, 1}})), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kDiscard, 0, ranges({{0, UINT32_MAX}})), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kDiscard, 0, 15), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kDiscard, 0, (kMostRanges + 1) * 16), RequestStatus::kIoError);
}

TEST_P(OneQueue, ReadOnly) {
  start({.read_only = true});
  EXPECT_NE(features_ & block_feature::kReadOnly, 0u);
  EXPECT_EQ(features_ & block_feature::kDiscard, 0u);
  EXPECT_EQ(run(RequestType::kOut, 0, 512), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kWriteZeroes, 0, ranges({{0, 1}})), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kIn, 0, 512), RequestStatus::kOk);
}

// A driver that cannot flush, or that asked for it, has its writes durable when they are done.
TEST_P(OneQueue, WritesAreDurableForWhoCannotFlush) {
  device_.start_recording();
  start({}, block_feature::kFlush | block_feature::kCacheMode);
  fill(7, 4096);
  EXPECT_EQ(run(RequestType::kOut, 0, 4096), RequestStatus::kOk);
  front_end_.hang_up();
  thread_->join();
  std::mt19937_64 random(1);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(device_.after_power_loss(random)->content()[0], std::byte{7});
}

TEST_P(OneQueue, WritesAreDurableInWritethroughMode) {
  device_.start_recording();
  start();
  std::vector<std::byte> off(sizeof(ConfigAccess) + 1);
  const ConfigAccess access = {.offset = kWritebackAt, .size = 1};
  std::memcpy(off.data(), &access, sizeof access);
  EXPECT_TRUE(front_end_.acknowledged(Message::kSetConfig, off));
  EXPECT_EQ(front_end_.config(kWritebackAt, 1).at(0), std::byte{0});
  fill(7, 4096);
  EXPECT_EQ(run(RequestType::kOut, 0, 4096), RequestStatus::kOk);
  front_end_.hang_up();
  thread_->join();
  std::mt19937_64 random(1);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(device_.after_power_loss(random)->content()[0], std::byte{7});
}

TEST_P(OneQueue, ErrorsOfTheDiskAreErrorsOfTheRequest) {
  layer::FaultDevice faulty(std::make_unique<storage::MemoryDevice>(kDiskBytes));
  layered_ = &faulty;
  start();
  EXPECT_EQ(run(RequestType::kIn, 0, 512), RequestStatus::kOk);
  faulty.fail_once(0, layer::RequestKind::kRead);
  EXPECT_EQ(run(RequestType::kIn, 0, 512), RequestStatus::kIoError);
  EXPECT_EQ(run(RequestType::kIn, 0, 512), RequestStatus::kOk);
  front_end_.hang_up();
  thread_->join();
}

TEST_P(OneQueue, StopsAndGoesOnWhereItWas) {
  start();
  for (int round = 0; round < 100; ++round) {
    fill(static_cast<uint8_t>(round), 512);
    ASSERT_EQ(run(RequestType::kOut, 0, 512, 1 + round % 2), RequestStatus::kOk);
    if (round % 3 != 0) continue;
    const uint32_t base = front_end_.stop(0);
    front_end_.set_up(0, queue_, base);
  }
  EXPECT_EQ(content()[0], std::byte{99});
}

// ---- many requests at random ----

class ManyQueues : public ::testing::TestWithParam<Kind> {};

TEST_P(ManyQueues, RandomRequestsGiveWhatAModelGives) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  storage::MemoryDevice device(kDiskBytes);
  device.mutable_limits().request_alignment = kSectorBytes;
  TestMemory memory(32 * kMiB);
  SocketPair pair;
  const DeviceSettings settings = {
      .private_reads = seed % 2 == 0, .queues = 4, .poll_ns = seed / 2 % 3 * 10'000};
  DeviceThread thread(device, std::move(pair.device), settings, 3,
                      seed / 6 % 2 == 0 ? io::Backend::kAutomatic : io::Backend::kThreads);
  FrontEnd front_end(std::move(pair.front_end));
  front_end.negotiate((GetParam().packed ? 0 : feature::kRingPacked) |
                      (GetParam().event_index ? 0 : feature::kEventIndex));
  front_end.share(memory);
  std::vector<std::unique_ptr<RandomDriver>> drivers;
  for (uint32_t i = 0; i < 3; ++i) {
    drivers.push_back(std::make_unique<RandomDriver>(memory, GetParam(), i * 12, seed + i));
    front_end.set_up(i, drivers.back()->queue, FrontEnd::first_base(GetParam().packed));
  }
  std::mt19937_64 random(seed);
  const auto all_idle = [&] { return std::ranges::all_of(drivers, [](auto& each) { return each->idle(); }); };
  const auto begin = std::chrono::steady_clock::now();
  const auto late = [&] { return std::chrono::steady_clock::now() - begin > std::chrono::seconds(120); };
  while (drivers[0]->done() < 3000 || !all_idle()) {
    for (auto& driver : drivers) driver->step(drivers[0]->done() < 3000);
    ASSERT_FALSE(late());
    if (HasFatalFailure()) break;
    if (random() % 500 == 0) {  // queues stop, and memory changes, in the middle
      const auto index = static_cast<uint32_t>(random() % drivers.size());
      front_end.set_up(index, drivers[index]->queue, front_end.stop(index));
    }
    if (random() % 1000 == 0) front_end.share(memory);
  }
  front_end.hang_up();
  thread.join();
  EXPECT_EQ(thread.log(), "");
}

INSTANTIATE_TEST_SUITE_P(Rings, OneQueue, ::testing::ValuesIn(kKinds), kind_name);
INSTANTIATE_TEST_SUITE_P(Rings, ManyQueues, ::testing::ValuesIn(kKinds), kind_name);

}  // namespace
}  // namespace cofre::vhost::testing
