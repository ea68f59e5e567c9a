// A device over one that is not its own, for tests: to lend a device to who takes ownership, and to build
// devices that do one thing differently.
#pragma once

#include "block/device.h"

namespace cofre::block {

// Stands for a device that outlives it: images own their devices, tests look at them afterwards.
class Borrowed : public Device {
 public:
  explicit Borrowed(Device& inner) : inner_(inner) {}
  const std::string& name() const override { return inner_.name(); }
  const Limits& limits() const override { return inner_.limits(); }
  uint64_t length_bytes() const override { return inner_.length_bytes(); }
  io::task<void> read(uint64_t offset, Bytes to) override { return inner_.read(offset, to); }
  io::task<void> write(uint64_t offset, ConstBytes from, WriteFlags flags) override {
    return inner_.write(offset, from, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, WriteFlags flags) override {
    return inner_.write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override { return inner_.discard(offset, length); }
  io::task<void> flush() override { return inner_.flush(); }
  io::task<Extent> map(uint64_t offset, uint64_t length) override { return inner_.map(offset, length); }
  io::task<void> resize(uint64_t length) override { return inner_.resize(length); }
  io::task<void> close() override { return inner_.close(); }

 protected:
  Device& inner() noexcept { return inner_; }

 private:
  Device& inner_;
};

}  // namespace cofre::block
