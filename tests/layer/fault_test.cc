// The fault device fails what it was told to, and nothing else.
#include "layer/fault.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/error.h"
#include "base/test_seed.h"
#include "io/simulated_reactor.h"
#include "io/sync.h"
#include "storage/memory.h"

namespace cofre::layer {
namespace {

class FaultTest : public testing::Test {
 protected:
  // The errno of what `work` throws, or 0.
  int errno_of(io::task<void> work) {
    try {
      reactor_.run_until_done(std::move(work));
      return 0;
    } catch (const Error& error) {
      return error.errno_value();
    }
  }
  int write(uint64_t offset, uint64_t length) {
    bytes_.assign(length, std::byte{1});
    return errno_of(device_.write(offset, bytes_));
  }
  int read(uint64_t offset, uint64_t length) {
    bytes_.assign(length, std::byte{1});
    return errno_of(device_.read(offset, bytes_));
  }

  io::SimulatedReactor reactor_{1};
  std::vector<std::byte> bytes_;
  FaultDevice device_{std::make_unique<storage::MemoryDevice>(4096), 1};
};

TEST_F(FaultTest, PassesEverythingWhenNothingIsAsked) {
  EXPECT_EQ(write(0, 10), 0);
  EXPECT_EQ(read(0, 10), 0);
  EXPECT_EQ(errno_of(device_.write_zeroes(0, 5)), 0);
  EXPECT_EQ(errno_of(device_.discard(0, 5)), 0);
  EXPECT_EQ(errno_of(device_.flush()), 0);
  EXPECT_EQ(errno_of(device_.resize(100)), 0);
  EXPECT_EQ(reactor_.run_until_done(device_.map(0, 100)).length_bytes, 100u);
  EXPECT_EQ(errno_of(device_.close()), 0);
  EXPECT_EQ(device_.requests(), 8u);
  EXPECT_EQ(device_.requests(RequestKind::kWrite), 1u);
  EXPECT_EQ(device_.failures(), 0u);
}

TEST_F(FaultTest, FailsTheNthOfItsKindOnce) {
  device_.fail_once(2, RequestKind::kWrite, ENOSPC);
  EXPECT_EQ(write(0, 10), 0);
  EXPECT_EQ(read(0, 10), 0);
  EXPECT_EQ(write(0, 10), 0);
  EXPECT_EQ(write(0, 10), ENOSPC);
  EXPECT_EQ(write(0, 10), 0);
  EXPECT_EQ(device_.failures(), 1u);
}

TEST_F(FaultTest, FailsARangeForGood) {
  Fault fault;
  fault.kinds = RequestKind::kRead | RequestKind::kWriteZeroes;
  fault.begin = 512;
  fault.end = 1024;
  device_.add(fault);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(read(1024, 512), 0);
  EXPECT_EQ(read(0, 513), EIO);
  EXPECT_EQ(read(1023, 1), EIO);
  EXPECT_EQ(errno_of(device_.write_zeroes(600, 1)), EIO);
  EXPECT_EQ(write(600, 1), 0);
  EXPECT_EQ(read(600, 1), EIO);
  device_.clear();
  EXPECT_EQ(read(600, 1), 0);
}

TEST_F(FaultTest, FailsFlushesAndCloses) {
  device_.add({.kinds = RequestKind::kFlush | RequestKind::kClose});
  EXPECT_EQ(errno_of(device_.flush()), EIO);
  EXPECT_EQ(errno_of(device_.close()), EIO);
}

TEST_F(FaultTest, RunsOutOfSpace) {
  device_.limit_written_bytes(1000);
  EXPECT_EQ(write(0, 600), 0);
  EXPECT_EQ(write(0, 600), ENOSPC);
  EXPECT_EQ(errno_of(device_.write_zeroes(0, 400)), 0);
  EXPECT_EQ(write(0, 1), ENOSPC);
  EXPECT_EQ(read(0, 1), 0);
}

TEST_F(FaultTest, TearsWrites) {
  Fault fault;
  fault.kinds = RequestKind::kWrite;
  fault.tears = true;
  device_.add(fault);
  EXPECT_EQ(write(0, 100), EIO);
  const auto& content = dynamic_cast<storage::MemoryDevice&>(device_.inner()).content();
  EXPECT_EQ(content[49], std::byte{1});
  EXPECT_EQ(content[50], std::byte{0});
}

TEST_F(FaultTest, TheSeedDecidesRandomFaults) {
  const auto failures = [this](uint64_t seed) {
    FaultDevice device(std::make_unique<storage::MemoryDevice>(4096), seed);
    device.add({.kinds = RequestKinds::all(), .one_in = 3});
    std::vector<bool> failed;
    for (int i = 0; i < 100; ++i) failed.push_back(errno_of(device.flush()) != 0);
    return failed;
  };
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  EXPECT_EQ(failures(seed), failures(seed));
  EXPECT_NE(failures(1), failures(2));
  const auto some = failures(1);
  EXPECT_NE(std::count(some.begin(), some.end(), true), 0);
  EXPECT_NE(std::count(some.begin(), some.end(), true), 100);
}

io::task<void> delayed_beside_prompt(FaultDevice& device, std::vector<int>& order) {
  struct Note {
    static io::task<void> after(io::task<void> work, std::vector<int>& notes, int name) {
      co_await std::move(work);
      notes.push_back(name);
    }
  };
  io::TaskGroup group;
  group.spawn(Note::after(device.flush(), order, 1));
  group.spawn(Note::after(device.discard(0, 1), order, 2));
  co_await group.join();
}

TEST(FaultDelay, OthersOvertakeDelayedRequests) {
  FaultDevice device(std::make_unique<storage::MemoryDevice>(4096), 1);
  device.delay(RequestKind::kFlush, 50'000'000, 60'000'000);
  std::vector<int> order;
  auto reactor = io::make_reactor();
  reactor->run_until_done(delayed_beside_prompt(device, order));
  EXPECT_EQ(order, (std::vector<int>{2, 1}));
}

}  // namespace
}  // namespace cofre::layer
