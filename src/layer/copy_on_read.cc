#include "layer/copy_on_read.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/units.h"
#include "layer/filter.h"
#include "layer/write_order.h"

namespace cofre::layer {
namespace {

// The longest copy made in one piece.
constexpr uint64_t kCopyBytes = kMiB;

class CopyOnRead final : public Filter {
 public:
  explicit CopyOnRead(std::unique_ptr<block::Device> below)
      : Filter(std::move(below)),
        unit_(std::max<uint64_t>(inner().limits().discard_alignment, inner().limits().request_alignment)) {}

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;

 private:
  WriteOrder::Awaiter order(WriteOrder::Guard& guard, uint64_t offset, uint64_t length) {
    return order_.acquire(guard, align_down(offset, unit_), align_up(offset + length, unit_),
                          /*exclusive=*/false);
  }
  io::task<void> copy(uint64_t offset, Bytes destination);

  uint64_t unit_;  // bytes: what is copied consists of such
  WriteOrder order_;
};

io::task<void> CopyOnRead::read(uint64_t offset, Bytes destination) {
  while (!destination.empty()) {
    const block::Extent extent = co_await inner().map(offset, destination.size());
    uint64_t step = extent.length_bytes;
    if (extent.allocated) {
      co_await inner().read(offset, destination.first(step));
    } else {
      step = std::min<uint64_t>(step, kCopyBytes);
      co_await copy(offset, destination.first(step));
    }
    offset += step;
    destination = destination.subspan(step);
  }
}

// Reads whole units under the order of writes, and writes them back unless somebody wrote there first.
io::task<void> CopyOnRead::copy(uint64_t offset, Bytes destination) {
  const uint64_t begin = align_down(offset, unit_);
  const uint64_t end = std::min(align_up(offset + destination.size(), unit_), length_bytes());
  WriteOrder::Guard guard;
  co_await order_.acquire(guard, begin, align_up(end, unit_), /*exclusive=*/true);
  AlignedBuffer buffer(end - begin);
  co_await inner().read(begin, buffer.bytes());
  std::memcpy(destination.data(), buffer.data() + (offset - begin), destination.size());
  for (uint64_t at = begin; at < end;) {
    const block::Extent now = co_await inner().map(at, end - at);
    const ConstBytes part = buffer.bytes().subspan(at - begin, now.length_bytes);
    if (!now.allocated && is_zero(part)) {
      co_await inner().write_zeroes(at, part.size(), {.may_unmap = true});
    } else if (!now.allocated) {
      co_await inner().write(at, part);
    }
    at += now.length_bytes;
  }
}

io::task<void> CopyOnRead::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  WriteOrder::Guard guard;
  co_await order(guard, offset, source.size());
  co_await inner().write(offset, source, flags);
}

io::task<void> CopyOnRead::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  WriteOrder::Guard guard;
  co_await order(guard, offset, length);
  co_await inner().write_zeroes(offset, length, flags);
}

io::task<void> CopyOnRead::discard(uint64_t offset, uint64_t length) {
  WriteOrder::Guard guard;
  co_await order(guard, offset, length);
  co_await inner().discard(offset, length);
}

}  // namespace

std::unique_ptr<block::Device> make_copy_on_read(std::unique_ptr<block::Device> inner) {
  return std::make_unique<CopyOnRead>(std::move(inner));
}

}  // namespace cofre::layer
