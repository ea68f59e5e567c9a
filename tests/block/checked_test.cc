// The contract checker: lets through what keeps the contract, ends the program on what breaks it.
#include "block/checked.h"

#include <gtest/gtest.h>

#include "io/simulated_reactor.h"
#include "io/sync.h"
#include "storage/memory.h"

namespace cofre::block {
namespace {

class Checked : public testing::Test {
 protected:
  Checked() {
    testing::GTEST_FLAG(death_test_style) = "threadsafe";
    auto memory = std::make_unique<storage::MemoryDevice>(kLength);
    memory_ = memory.get();
    memory_->mutable_limits().request_alignment = 512;
    memory_->mutable_limits().growable = false;
    memory_->mutable_limits().max_write_bytes = 1024;
    device_ = make_checked(std::move(memory));
  }
  void read(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    reactor_.run_until_done(device_->read(offset, bytes));
  }
  void write(uint64_t offset, uint64_t length) {
    const std::vector<std::byte> bytes(length);
    reactor_.run_until_done(device_->write(offset, bytes));
  }

  static constexpr uint64_t kLength = 4096 + 100;
  storage::MemoryDevice* memory_;
  std::unique_ptr<Device> device_;
  io::SimulatedReactor reactor_{1};
};
using CheckedDeathTest = Checked;

TEST_F(Checked, LetsThroughWhatKeepsTheContract) {
  read(512, 1024);
  read(4096, 100);  // unaligned, but the end
  write(0, 1024);
  write(4096, 100);
  write(512, 0);
  reactor_.run_until_done(device_->write_zeroes(512, kLength - 512));
  reactor_.run_until_done(device_->discard(0, 4096));
  reactor_.run_until_done(device_->flush());
  EXPECT_EQ(reactor_.run_until_done(device_->map(512, 512)).length_bytes, 512u);
  EXPECT_EQ(device_->name(), "memory");
  EXPECT_EQ(device_->length_bytes(), kLength);
  memory_->mutable_limits().growable = true;
  write(8192, 512);
  EXPECT_EQ(device_->length_bytes(), 8192u + 512);
  reactor_.run_until_done(device_->resize(100));
  reactor_.run_until_done(device_->close());
}

TEST_F(CheckedDeathTest, Alignment) {
  EXPECT_DEATH(read(1, 511), "an unaligned offset");
  EXPECT_DEATH(read(0, 511), "an unaligned length");
  EXPECT_DEATH(write(100, 512), "an unaligned offset");
  EXPECT_DEATH(reactor_.run_until_done(device_->write_zeroes(512, 100)), "an unaligned length");
  EXPECT_DEATH(reactor_.run_until_done(device_->discard(512, 100)), "an unaligned length");
  EXPECT_DEATH(reactor_.run_until_done(device_->map(512, 100)), "an unaligned length");
}

TEST_F(CheckedDeathTest, Bounds) {
  EXPECT_DEATH(read(4096, 512), "a request past the end");
  EXPECT_DEATH(write(4096, 512), "a request past the end");
  EXPECT_DEATH(write(0, 2048), "longer than max_write_bytes");
  EXPECT_DEATH(reactor_.run_until_done(device_->write_zeroes(4096, 4096)), "a request past the end");
  EXPECT_DEATH(reactor_.run_until_done(device_->map(1u << 20, 512)), "a request past the end");
}

TEST_F(CheckedDeathTest, ARequestThatWrapsIsPastTheEndOfAGrowableDeviceToo) {
  memory_->mutable_limits().growable = true;
  EXPECT_DEATH(write(UINT64_MAX - 511, 1024), "a request past the end");
}

TEST_F(CheckedDeathTest, UseAfterClose) {
  reactor_.run_until_done(device_->close());
  EXPECT_DEATH(read(0, 512), "a request after close");
  EXPECT_DEATH(reactor_.run_until_done(device_->flush()), "flush after close");
  EXPECT_DEATH(reactor_.run_until_done(device_->resize(0)), "resize after close");
  EXPECT_DEATH(reactor_.run_until_done(device_->close()), "close while in use, or twice");
}

io::task<void> read_and_close(Device& device, Bytes bytes) {
  io::TaskGroup group;
  group.spawn(device.read(0, bytes));
  group.spawn(device.close());
  co_await group.join();
}

TEST_F(CheckedDeathTest, CloseWhileInUse) {
  std::vector<std::byte> bytes(512);
  EXPECT_DEATH(reactor_.run_until_done(read_and_close(*device_, bytes)), "close while in use");
}

io::task<void> change_while_writing(Device& device, Bytes bytes) {
  io::TaskGroup group;
  group.spawn(device.write(0, bytes));
  bytes[17] = std::byte{1};
  co_await group.join();
}

TEST_F(CheckedDeathTest, ABufferThatChangesUnderAWrite) {
  std::vector<std::byte> bytes(512);
  EXPECT_DEATH(reactor_.run_until_done(change_while_writing(*device_, bytes)), "changed during the write");
}

}  // namespace
}  // namespace cofre::block
