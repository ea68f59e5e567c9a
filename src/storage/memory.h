// A device in memory that knows what a power loss would leave: for tests, and for building small images.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block/device.h"

namespace cofre::storage {

// Belongs to one lane. Each request passes through the reactor once before it takes effect, so a simulated reactor
// decides the order of concurrent ones.
class MemoryDevice final : public block::Device {
 public:
  explicit MemoryDevice(uint64_t length = 0, std::string name = "memory");

  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  block::Limits& mutable_limits() noexcept { return limits_; }
  uint64_t length_bytes() const override { return content_.size(); }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;

  std::vector<std::byte>& content() noexcept { return content_; }

  // From now on remembers every write since the last flush. What is there now counts as durable.
  void start_recording();
  // What a disk may hold after losing power now: all that was flushed, and of each later write any of its sectors.
  std::unique_ptr<MemoryDevice> after_power_loss(std::mt19937_64& random) const;

 private:
  struct PendingWrite {
    uint64_t offset;
    std::vector<std::byte> bytes;
  };
  void apply(uint64_t offset, ConstBytes source);

  std::string name_;
  block::Limits limits_;
  std::vector<std::byte> content_;
  bool recording_ = false;
  std::vector<std::byte> durable_;
  std::vector<PendingWrite> pending_;
};

}  // namespace cofre::storage
