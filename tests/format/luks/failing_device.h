// A device whose operations start to fail after a number of them: for errors in the middle, and for crashes.
#pragma once

#include <string>

#include "base/error.h"
#include "block/device.h"

namespace cofre::luks {

// Stands over a device that outlives it. Counts writes, write_zeroes and flushes, and reads too if
// `count_reads`.
class FailingDevice : public block::Device {
 public:
  FailingDevice(block::Device& inner, size_t good_operations, bool count_reads = false)
      : inner_(inner), left_(good_operations), count_reads_(count_reads) {}

  bool failed() const noexcept { return failed_; }

  const std::string& name() const override { return inner_.name(); }
  const block::Limits& limits() const override { return inner_.limits(); }
  uint64_t length_bytes() const override { return inner_.length_bytes(); }
  io::task<void> read(uint64_t offset, Bytes destination) override {
    if (count_reads_) spend();
    co_await inner_.read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    spend();
    co_await inner_.write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    spend();
    co_await inner_.write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override { return inner_.discard(offset, length); }
  io::task<void> flush() override {
    spend();
    co_await inner_.flush();
  }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_.map(offset, length);
  }
  io::task<void> resize(uint64_t length) override { return inner_.resize(length); }
  io::task<void> close() override { return inner_.close(); }

 private:
  void spend() {
    if (left_ == 0) {
      failed_ = true;
      fail(ErrorKind::kIo, "{}: the storage has failed", name());
    }
    --left_;
  }

  block::Device& inner_;
  size_t left_;
  bool count_reads_;
  bool failed_ = false;
};

}  // namespace cofre::luks
