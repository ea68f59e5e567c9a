// A device whose operations start to fail after a number of them: for errors in the middle, and for crashes.
#pragma once

#include <string>

#include "base/error.h"
#include "block/borrowed.h"

namespace cofre::luks {

// Stands over a device that outlives it. Counts writes, write_zeroes and flushes, and reads too if
// `count_reads`.
class FailingDevice : public block::Borrowed {
 public:
  FailingDevice(block::Device& inner, size_t good_operations, bool count_reads = false)
      : Borrowed(inner), left_(good_operations), count_reads_(count_reads) {}

  bool failed() const noexcept { return failed_; }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    if (count_reads_) spend();
    co_await inner().read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    spend();
    co_await inner().write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    spend();
    co_await inner().write_zeroes(offset, length, flags);
  }
  io::task<void> flush() override {
    spend();
    co_await inner().flush();
  }

 private:
  void spend() {
    if (left_ == 0) {
      failed_ = true;
      fail(ErrorKind::kIo, "{}: the storage has failed", name());
    }
    --left_;
  }

  size_t left_;
  bool count_reads_;
  bool failed_ = false;
};

}  // namespace cofre::luks
