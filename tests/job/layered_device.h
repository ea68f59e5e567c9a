// An image in memory, for tests of jobs: sectors that are data, zero or not allocated, over a backing device;
// it counts what is asked of it and fails on demand.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "base/units.h"
#include "block/device.h"

namespace cofre::test {

enum class Sector : uint8_t { kUnallocated, kZero, kData };

// Any lane may use it. Each request lets others run twice: before it takes effect, and before it completes.
class LayeredDevice final : public block::Device {
 public:
  explicit LayeredDevice(uint64_t length, std::string name = "layered", LayeredDevice* backing = nullptr);

  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  block::Limits& mutable_limits() noexcept { return limits_; }
  uint64_t length_bytes() const override { return content_.size(); }
  Device* backing() const override { return backing_; }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;

  // ---- for tests; not while requests run ----

  uint64_t sectors() const noexcept { return sectors_.size(); }
  Sector sector(uint64_t index) const noexcept { return sectors_[index]; }
  // Marks [offset, offset + length), whole sectors; data gets `fill`.
  void set(uint64_t offset, uint64_t length, Sector state, std::byte fill = std::byte{0});
  // Random runs of all states, of up to `longest_run` sectors; data is now and then zero.
  void randomize(std::mt19937_64& random, uint64_t longest_run, bool with_unallocated);
  // What a reader sees, the backing devices included.
  std::vector<std::byte> view() const;

  // Throws from read, write, write_zeroes and map, where it says so (kIo).
  enum class Kind { kRead, kWrite, kZero, kMap };
  std::function<bool(Kind kind, uint64_t offset)> fails;
  bool zeroes_cheaply = true;  // false: write_zeroes with no_fallback is kUnsupported

  struct Request {
    uint64_t offset;
    uint64_t length;
    bool zero;
    bool compressed;
  };
  const std::vector<Request>& writes() const noexcept { return writes_; }  // as they started
  uint64_t bytes_read() const noexcept { return bytes_read_; }
  unsigned most_writes_at_once() const noexcept { return most_writes_; }
  unsigned most_reads_at_once() const noexcept { return most_reads_; }

 private:
  void fail_if_asked(Kind kind, uint64_t offset);
  io::task<void> change(uint64_t offset, uint64_t length, const std::byte* source, bool compressed = false);

  std::string name_;
  block::Limits limits_;
  LayeredDevice* backing_;
  mutable std::mutex mutex_;
  std::vector<std::byte> content_;
  std::vector<Sector> sectors_;
  std::vector<Request> writes_;
  uint64_t bytes_read_ = 0;
  unsigned writes_now_ = 0;
  unsigned most_writes_ = 0;
  unsigned reads_now_ = 0;
  unsigned most_reads_ = 0;
};

}  // namespace cofre::test
