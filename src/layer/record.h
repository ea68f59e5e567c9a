// A device that records every change, so that a crash test can replay a power loss at any moment of a run.
//
// MemoryDevice::after_power_loss() draws one state at the present moment; a record of one run gives all
// moments, also those with writes half done. Both judge durability as block/device.h does.
#pragma once

#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "layer/filter.h"
#include "storage/memory.h"

namespace cofre::layer {

// Any lane may send requests; replays are for when none is in flight. Keeps all that is written in memory.
class RecordDevice final : public Filter {
 public:
  // The content of `inner` counts as durable; `initial` is a copy of it that replays start from.
  RecordDevice(std::unique_ptr<block::Device> inner, std::vector<std::byte> initial)
      : Filter(std::move(inner)), initial_(std::move(initial)) {}

  // Moments of the run: each start and each end of a change or a flush is one.
  uint64_t moments() const;
  // How many flushes had ended by this moment: to know what was promised.
  uint64_t flushes_ended_at(uint64_t moment) const;
  // What a disk may hold after losing power when the first `moments` had passed: all that an ended flush (or
  // fua) promised; of each other write that had started any of its sectors, of each resize all or nothing.
  std::unique_ptr<storage::MemoryDevice> replay(uint64_t moments, std::mt19937_64& random) const;

  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;

 private:
  enum class Kind : uint8_t { kBytes, kZeroes, kDiscard, kResize, kFlush };
  static constexpr uint64_t kNotYet = UINT64_MAX;
  struct Entry {
    Kind kind = Kind::kBytes;
    uint64_t offset = 0;
    uint64_t length = 0;
    std::vector<std::byte> bytes;
    bool fua = false;
    uint64_t started = 0;      // moments
    uint64_t ended = kNotYet;  // stays so for a request that failed
  };
  size_t start(Entry entry);
  void end(size_t index);
  bool durable(const Entry& entry, uint64_t moment) const;

  std::vector<std::byte> initial_;
  mutable std::mutex mutex_;  // over all below
  std::vector<Entry> entries_;
  uint64_t moments_ = 0;
};

}  // namespace cofre::layer
