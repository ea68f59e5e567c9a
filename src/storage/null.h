// A device that holds nothing: it takes every write and reads as zero (whatever was in the buffer before must
// not end in an image). For measurements and tests. Any lane.
#pragma once

#include <string>

#include "block/device.h"

namespace cofre::storage {

struct NullOptions {
  uint64_t length_bytes = uint64_t{1} << 30;
  bool read_zeroes = false;  // map() says so; false: it says that nothing is allocated
  bool read_only = false;
  uint64_t latency_ns = 0;  // of every request
};

class NullDevice final : public block::Device {
 public:
  NullDevice(const NullOptions& options, std::string name);

  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return options_.length_bytes; }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;
  std::optional<uint64_t> allocated_bytes() const override { return 0; }

 private:
  io::task<void> pass(bool writes);

  NullOptions options_;
  std::string name_;
  block::Limits limits_;
};

}  // namespace cofre::storage
