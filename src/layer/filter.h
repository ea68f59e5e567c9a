// What a device that only watches or changes requests on their way has in common: everything passes. Any
// lane.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::layer {

class Filter : public block::Device {
 public:
  explicit Filter(std::unique_ptr<block::Device> inner) : inner_(std::move(inner)) {}

  const std::string& name() const override { return inner_->name(); }
  const block::Limits& limits() const override { return inner_->limits(); }
  uint64_t length_bytes() const override { return inner_->length_bytes(); }
  block::Device* backing() const override { return inner_->backing(); }
  std::optional<uint64_t> allocated_bytes() const override { return inner_->allocated_bytes(); }
  void raise(block::Event event) override { inner_->raise(event); }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    return inner_->read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override {
    return inner_->write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override {
    return inner_->write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    return inner_->discard(offset, length);
  }
  io::task<void> flush() override { return inner_->flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_->map(offset, length);
  }
  io::task<void> resize(uint64_t length) override { return inner_->resize(length); }
  io::task<void> close() override { return inner_->close(); }

 protected:
  block::Device& inner() const noexcept { return *inner_; }

 private:
  std::unique_ptr<block::Device> inner_;
};

}  // namespace cofre::layer
