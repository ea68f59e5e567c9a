// A device in memory that knows what a power loss would leave: for tests, and for building small images.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "block/device.h"

namespace cofre::storage {

// Any lane may send requests; all else is for when none is in flight. Each request passes through the reactor
// once before it takes effect, so a simulated reactor decides the order of concurrent ones.
class MemoryDevice final : public block::Device {
 public:
  explicit MemoryDevice(uint64_t length = 0, std::string name = "memory");

  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  block::Limits& mutable_limits() noexcept { return limits_; }
  uint64_t length_bytes() const override { return length_.load(std::memory_order_acquire); }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;

  // The bytes themselves; to change the length, use resize().
  std::vector<std::byte>& content() noexcept { return content_; }

  // From now on remembers every write since the last flush. What is there now counts as durable.
  void start_recording();
  // What a disk may hold after losing power now: all that was flushed, of each later write any of its
  // sectors, and each later resize or not.
  std::unique_ptr<MemoryDevice> after_power_loss(std::mt19937_64& random) const;

 private:
  struct Change {  // a write, or with `resize` a new length: `offset`
    uint64_t number;
    uint64_t offset;
    std::vector<std::byte> bytes;
    bool resize = false;
  };
  void check_writable(uint64_t offset, uint64_t length) const;
  void apply(uint64_t offset, ConstBytes source);
  // Makes the content durable as it was after the change before `number`.
  void settle(uint64_t number);

  std::string name_;
  block::Limits limits_;
  std::atomic<uint64_t> length_;
  mutable std::mutex mutex_;  // over all below
  std::vector<std::byte> content_;
  bool recording_ = false;
  std::vector<std::byte> durable_;
  std::deque<Change> pending_;  // since the last flush, oldest first
  uint64_t next_number_ = 0;
};

}  // namespace cofre::storage
