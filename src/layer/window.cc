#include "layer/window.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "layer/align.h"

namespace cofre::layer {
namespace {

class WindowDevice final : public block::Device {
 public:
  WindowDevice(std::unique_ptr<block::Device> inner, uint64_t offset, std::optional<uint64_t> length)
      : inner_(std::move(inner)), offset_(offset), fixed_length_(length), limits_(inner_->limits()) {
    if (fixed_length_) limits_.growable = false;
  }

  const std::string& name() const override { return inner_->name(); }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override {
    if (fixed_length_) return *fixed_length_;
    return std::max(inner_->length_bytes(), offset_) - offset_;
  }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    return inner_->read(below(offset, destination.size()), destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    return inner_->write(below(offset, source.size()), source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    return inner_->write_zeroes(below(offset, length), length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    return inner_->discard(below(offset, length), length);
  }
  io::task<void> flush() override { return inner_->flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_->map(below(offset, length), length);
  }
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override { return inner_->close(); }
  std::optional<uint64_t> allocated_bytes() const override { return inner_->allocated_bytes(); }
  void raise(block::Event event) override { inner_->raise(event); }

 private:
  uint64_t below(uint64_t offset, uint64_t length) const {
    const auto end = checked_add(offset, length);
    if (!end || !checked_add(offset_, *end) || (fixed_length_ && *end > *fixed_length_))
      fail(ErrorKind::kNoSpace, "'{}': {} bytes at offset {} are past the end of its window", name(), length,
           offset);
    return offset_ + offset;
  }

  std::unique_ptr<block::Device> inner_;
  uint64_t offset_;
  std::optional<uint64_t> fixed_length_;
  block::Limits limits_;
};

io::task<void> WindowDevice::resize(uint64_t length) {
  if (fixed_length_) fail(ErrorKind::kUnsupported, "'{}': a raw image with size= cannot be resized", name());
  const auto total = checked_add(offset_, length);
  if (!total)
    fail(ErrorKind::kLimit, "'{}': {} bytes from offset {} on are too many", name(), length, offset_);
  co_await inner_->resize(*total);
}

}  // namespace

std::unique_ptr<block::Device> make_window(std::unique_ptr<block::Device> inner, uint64_t offset,
                                           std::optional<uint64_t> length) {
  const uint64_t whole = inner->length_bytes();
  if (offset > whole)
    fail(ErrorKind::kInvalidArgument, "'{}': offset {} is past the end at {}", inner->name(), offset, whole);
  if (length && *length > whole - offset)
    fail(ErrorKind::kInvalidArgument, "'{}': {} bytes from offset {} on are past the end at {}",
         inner->name(), *length, offset, whole);
  const uint64_t places = offset | length.value_or(0);
  const uint64_t finest = places == 0 ? UINT32_MAX : places & (~places + 1);
  if (finest < inner->limits().request_alignment)
    inner = make_aligning(std::move(inner), static_cast<uint32_t>(finest));
  return std::make_unique<WindowDevice>(std::move(inner), offset, length);
}

}  // namespace cofre::layer
