// Servers that are killed at any moment: the next one, given the memory in which they noted what was in
// flight, goes on, and the guest notices nothing.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <chrono>
#include <random>

#include "base/test_seed.h"
#include "base/units.h"
#include "export/vhost_device_thread.h"
#include "export/vhost_random_driver.h"
#include "storage/file.h"

namespace cofre::vhost::testing {
namespace {

constexpr uint64_t kDiskBytes = 4 * kMiB;
constexpr uint16_t kQueues = 2;
constexpr uint16_t kQueueSize = 64;

// A server in a process of its own, whose disk is memory that outlives it.
class ServerProcess {
 public:
  ServerProcess(int disk, OwnedFd socket) : child_(::fork()) {
    if (child_ == 0) serve(disk, std::move(socket));
  }
  ~ServerProcess() { kill(); }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    int status = 0;
    ::waitpid(child_, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it ended by itself, with status " << status;
    child_ = -1;
  }

 private:
  [[noreturn]] static void serve(int disk, OwnedFd socket) {
    try {
      io::Lanes lanes(2);
      const auto device = storage::FileDevice::open("/proc/self/fd/" + std::to_string(disk), {});
      BlockDevice block({.name = "disk", .device = device.get(), .queues = kQueues});
      io::Cancel cancel;
      Session session(std::move(socket), block, lanes, cancel);
      lanes.run(session.run());
    } catch (const std::exception&) {
    }
    ::_exit(1);
  }

  pid_t child_;
};

class CrashTest : public ::testing::TestWithParam<Kind> {
 protected:
  CrashTest() : disk_(::memfd_create("disk", MFD_CLOEXEC)) {
    if (::ftruncate(disk_.get(), kDiskBytes) != 0) throw std::runtime_error("ftruncate");
    for (uint32_t i = 0; i < kQueues; ++i)
      drivers_.push_back(std::make_unique<RandomDriver>(memory_, GetParam(), i * 12, seed_ + i));
  }

  // As QEMU tells a new server where a ring is: what the used index says, or what was known once.
  uint32_t base_of(DriverQueue& queue) const {
    return GetParam().packed ? FrontEnd::first_base(true) : load_le<uint16_t>(queue.device_area() + 2);
  }

  void start() {
    SocketPair pair;
    server_ = std::make_unique<ServerProcess>(disk_.get(), std::move(pair.device));
    front_end_.emplace(std::move(pair.front_end));
    front_end_->negotiate((GetParam().packed ? 0 : feature::kRingPacked) |
                          (GetParam().event_index ? 0 : feature::kEventIndex));
    if (!inflight_) {
      const InflightDescription wanted = {
          .map_size = 0, .map_offset = 0, .queues = kQueues, .queue_size = kQueueSize};
      Reply reply = front_end_->ask(Message::kGetInflightFd, bytes_of(wanted));
      inflight_area_ = reply.as<InflightDescription>();
      inflight_ = std::move(reply.descriptors.at(0));
    }
    const std::array<int, 1> fd = {inflight_.get()};
    front_end_->send_value(Message::kSetInflightFd, inflight_area_, fd);
    front_end_->share(memory_);
    for (uint32_t i = 0; i < kQueues; ++i)
      front_end_->set_up(i, drivers_[i]->queue, base_of(drivers_[i]->queue));
  }

  void run_for(std::chrono::microseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end && !HasFailure())
      for (auto& driver : drivers_) driver->step(/*more=*/true);
  }

  const uint64_t seed_ = test_seed();
  OwnedFd disk_;
  OwnedFd inflight_;
  InflightDescription inflight_area_;
  TestMemory memory_{32 * kMiB};
  std::vector<std::unique_ptr<RandomDriver>> drivers_;
  std::unique_ptr<ServerProcess> server_;
  std::optional<FrontEnd> front_end_;
};

TEST_P(CrashTest, TheNextServerGoesOn) {
  SCOPED_TRACE(seed_);
  std::mt19937_64 random(seed_);
  for (int round = 0; round < 60 && !HasFailure(); ++round) {
    start();
    run_for(std::chrono::microseconds(random() % 8000));
    server_->kill();
  }
  start();
  const auto begin = std::chrono::steady_clock::now();
  const auto all_idle = [&] {
    return std::ranges::all_of(drivers_, [](auto& each) { return each->idle(); });
  };
  while (!all_idle() && !HasFailure()) {
    for (auto& driver : drivers_) driver->step(/*more=*/false);
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60))
        << "a request was forgotten";
  }
  for (auto& driver : drivers_) EXPECT_GT(driver->done(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rings, CrashTest, ::testing::ValuesIn(kKinds), kind_name);

}  // namespace
}  // namespace cofre::vhost::testing
