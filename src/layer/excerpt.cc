#include "layer/excerpt.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"

namespace cofre::layer {
namespace {

class Excerpt final : public block::Device {
 public:
  Excerpt(block::Device& inner, uint64_t begin, uint64_t length)
      : inner_(inner), begin_(begin), length_(length), limits_(inner.limits()) {
    limits_.request_alignment = 1;
    limits_.compressed_unit_bytes = 0;
    limits_.read_only = true;
    limits_.growable = false;
  }

  const std::string& name() const override { return inner_.name(); }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return length_; }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t, ConstBytes, block::WriteFlags) override { refuse(); }
  io::task<void> write_zeroes(uint64_t, uint64_t, block::WriteFlags) override { refuse(); }
  io::task<void> discard(uint64_t, uint64_t) override { refuse(); }
  io::task<void> flush() override { co_return; }
  // Down the whole chain: an excerpt has no backing device of its own.
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t) override { refuse(); }
  io::task<void> close() override { co_return; }

 private:
  // The aligned range of the device below that holds a range of this one.
  struct Around {
    uint64_t begin;
    uint64_t end;
  };
  Around around(uint64_t offset, uint64_t length) const noexcept {
    const uint64_t alignment = inner_.limits().request_alignment;
    const uint64_t from = begin_ + offset;
    return {align_down(from, alignment),
            std::min(align_up<uint64_t>(from + length, alignment), inner_.length_bytes())};
  }
  [[noreturn]] void refuse() const { fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name()); }

  block::Device& inner_;
  uint64_t begin_;
  uint64_t length_;
  block::Limits limits_;
};

io::task<void> Excerpt::read(uint64_t offset, Bytes destination) {
  if (destination.empty()) co_return;
  const Around range = around(offset, destination.size());
  if (range.begin == begin_ + offset && range.end - range.begin == destination.size())
    co_return co_await inner_.read(range.begin, destination);
  AlignedBuffer whole(range.end - range.begin);
  co_await inner_.read(range.begin, whole.bytes());
  std::memcpy(destination.data(), whole.data() + (begin_ + offset - range.begin), destination.size());
}

io::task<block::Extent> Excerpt::map(uint64_t offset, uint64_t length) {
  const Around range = around(offset, length);
  const block::ChainExtent found = co_await block::map_chain(inner_, range.begin, range.end - range.begin);
  block::Extent extent = found.extent;
  if (!extent.allocated) extent.zero = true;
  extent.allocated = true;
  extent.host_offset.reset();
  extent.length_bytes = std::min(length, range.begin + extent.length_bytes - (begin_ + offset));
  co_return extent;
}

}  // namespace

std::unique_ptr<block::Device> make_excerpt(block::Device& inner, uint64_t begin, uint64_t length) {
  return std::make_unique<Excerpt>(inner, begin, length);
}

}  // namespace cofre::layer
