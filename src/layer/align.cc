#include "layer/align.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "layer/write_order.h"

namespace cofre::layer {
namespace {

// Unaligned requests up to here go as one request through a buffer; of longer ones only the edges do.
constexpr uint64_t kBounceBytes = 128 * kKiB;

class AligningDevice final : public block::Device {
 public:
  AligningDevice(std::unique_ptr<block::Device> inner, uint32_t alignment)
      : inner_(std::move(inner)), limits_(inner_->limits()), block_(limits_.request_alignment) {
    limits_.request_alignment = alignment;
    limits_.discard_alignment = std::max(limits_.discard_alignment, block_);
  }

  const std::string& name() const override { return inner_->name(); }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return inner_->length_bytes(); }
  block::Device* backing() const override { return inner_->backing(); }
  std::optional<uint64_t> allocated_bytes() const override { return inner_->allocated_bytes(); }
  void raise(block::Event event) override { inner_->raise(event); }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    const uint64_t end = offset + destination.size();
    if (starts_block(offset) && ends_block(end)) return inner_->read(offset, destination);
    return read_unaligned(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override { return inner_->flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override { return inner_->close(); }

 private:
  bool starts_block(uint64_t offset) const noexcept { return is_aligned<uint64_t>(offset, block_); }
  bool ends_block(uint64_t end) const noexcept {
    return is_aligned<uint64_t>(end, block_) || end == inner_->length_bytes();
  }
  uint64_t block_begin(uint64_t offset) const noexcept { return align_down<uint64_t>(offset, block_); }
  // The end of the block that holds the byte before `end`, or of the device within that block.
  uint64_t block_end(uint64_t end) const noexcept {
    const uint64_t rounded = align_up<uint64_t>(end, block_);
    const uint64_t length = inner_->length_bytes();
    return end <= length ? std::min(rounded, length) : rounded;
  }
  // The longest run of blocks that goes through a buffer in one piece.
  uint64_t bounce_limit() const noexcept {
    return std::max<uint64_t>(block_, std::min(kBounceBytes, limits_.max_write_bytes));
  }

  // The whole blocks of a request; its edges lie before and behind them.
  struct Whole {
    uint64_t begin;
    uint64_t end;
  };
  Whole whole_blocks(uint64_t offset, uint64_t end) const noexcept {
    const uint64_t begin = align_up<uint64_t>(offset, block_);
    return {begin, std::max(begin, ends_block(end) ? end : block_begin(end))};
  }

  io::task<void> read_unaligned(uint64_t offset, Bytes destination);
  io::task<void> read_edge(uint64_t offset, Bytes destination);
  io::task<void> lock(WriteOrder::Guard& guard, uint64_t offset, uint64_t end);
  io::task<void> prepare_growth(uint64_t end);
  io::task<void> read_head(uint64_t begin, Bytes head);
  io::task<void> patch(uint64_t offset, ConstBytes source, block::WriteFlags flags);
  io::task<void> patch_zeroes(uint64_t offset, uint64_t end, block::WriteFlags flags);

  std::unique_ptr<block::Device> inner_;
  block::Limits limits_;
  uint32_t block_;  // bytes: the request alignment of the device below
  WriteOrder order_;
};

// Reads need no order with writes: a read-modify-write puts back the bytes beside its own as they were.
io::task<void> AligningDevice::read_unaligned(uint64_t offset, Bytes destination) {
  const uint64_t end = offset + destination.size();
  if (block_end(end) - block_begin(offset) <= bounce_limit()) {
    co_await read_edge(offset, destination);
    co_return;
  }
  const Whole whole = whole_blocks(offset, end);
  if (offset < whole.begin) co_await read_edge(offset, destination.first(whole.begin - offset));
  co_await inner_->read(whole.begin, destination.subspan(whole.begin - offset, whole.end - whole.begin));
  if (whole.end < end) co_await read_edge(whole.end, destination.subspan(whole.end - offset));
}

io::task<void> AligningDevice::read_edge(uint64_t offset, Bytes destination) {
  if (destination.empty()) co_return;
  const uint64_t begin = block_begin(offset);
  AlignedBuffer bounce(block_end(offset + destination.size()) - begin);
  co_await inner_->read(begin, bounce.bytes());
  std::memcpy(destination.data(), bounce.data() + (offset - begin), destination.size());
}

// Whole blocks are shared between writes (the device below orders them as it does); everything else has its
// blocks for itself. A write that grows the device holds its last block too: so no two of them grow it past
// each other when one must resize it, and none moves the end while another write relies on it.
io::task<void> AligningDevice::lock(WriteOrder::Guard& guard, uint64_t offset, uint64_t end) {
  const bool whole = starts_block(offset) && is_aligned<uint64_t>(end, block_);
  const uint64_t length = inner_->length_bytes();
  const uint64_t first = block_begin(end > length ? std::min(offset, length) : offset);
  co_await order_.acquire(guard, first, align_up<uint64_t>(end, block_), /*exclusive=*/!whole);
}

// Below, a write that grows must end at a block's end; one that ends at the device's end need not.
io::task<void> AligningDevice::prepare_growth(uint64_t end) {
  if (end > inner_->length_bytes() && !is_aligned<uint64_t>(end, block_)) co_await inner_->resize(end);
}

io::task<void> AligningDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  if (source.empty()) co_return;
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name());
  const uint64_t end = offset + source.size();
  WriteOrder::Guard guard;
  co_await lock(guard, offset, end);
  if (starts_block(offset) && ends_block(end)) {
    co_await inner_->write(offset, source, flags);
    co_return;
  }
  co_await prepare_growth(end);
  if (block_end(end) - block_begin(offset) <= bounce_limit()) {
    co_await patch(offset, source, flags);
    co_return;
  }
  const Whole whole = whole_blocks(offset, end);
  if (offset < whole.begin) co_await patch(offset, source.first(whole.begin - offset), flags);
  co_await inner_->write(whole.begin, source.subspan(whole.begin - offset, whole.end - whole.begin), flags);
  if (whole.end < end) co_await patch(whole.end, source.subspan(whole.end - offset), flags);
}

// Behind the end of a device that grows are zeroes.
io::task<void> AligningDevice::read_head(uint64_t begin, Bytes head) {
  const uint64_t length = inner_->length_bytes();
  const uint64_t there = begin < length ? std::min<uint64_t>(head.size(), length - begin) : 0;
  std::ranges::fill(head.subspan(there), std::byte{0});
  if (there > 0) co_await inner_->read(begin, head.first(there));
}

// Reads what the blocks at the edges hold beside `source`, and writes them whole. The blocks are locked.
io::task<void> AligningDevice::patch(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  const uint64_t source_end = offset + source.size();
  const uint64_t begin = block_begin(offset);
  const uint64_t end = block_end(source_end);
  AlignedBuffer bounce(end - begin);
  const uint64_t head_end = std::min(end, begin + block_);
  const uint64_t tail_begin = block_begin(source_end);
  const bool has_head = offset > begin;
  const bool has_tail = source_end < end;
  const bool tail_read_as_head = has_head && tail_begin < head_end;
  if (has_head) {
    const bool both = has_tail && tail_read_as_head;
    inner_->raise(block::Event::kPwritevRmwHead);
    if (both) inner_->raise(block::Event::kPwritevRmwTail);
    co_await read_head(begin, bounce.bytes().first(head_end - begin));
    inner_->raise(block::Event::kPwritevRmwAfterHead);
    if (both) inner_->raise(block::Event::kPwritevRmwAfterTail);
  }
  if (has_tail && !tail_read_as_head) {
    inner_->raise(block::Event::kPwritevRmwTail);
    co_await inner_->read(tail_begin, bounce.bytes().subspan(tail_begin - begin));
    inner_->raise(block::Event::kPwritevRmwAfterTail);
  }
  std::memcpy(bounce.data() + (offset - begin), source.data(), source.size());
  co_await inner_->write(begin, bounce.bytes(), flags);
}

io::task<void> AligningDevice::patch_zeroes(uint64_t offset, uint64_t end, block::WriteFlags flags) {
  AlignedBuffer zeroes(end - offset);
  std::memset(zeroes.data(), 0, zeroes.size());
  co_await patch(offset, zeroes.bytes(), block::WriteFlags{.fua = flags.fua});
}

io::task<void> AligningDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  if (length == 0) co_return;
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name());
  const uint64_t end = offset + length;
  WriteOrder::Guard guard;
  co_await lock(guard, offset, end);
  if (!starts_block(offset) || !ends_block(end)) co_await prepare_growth(end);
  const Whole whole = whole_blocks(offset, end);
  // The whole blocks first: if the device below cannot zero them without writing, nothing has changed.
  if (whole.begin < whole.end) co_await inner_->write_zeroes(whole.begin, whole.end - whole.begin, flags);
  if (offset < whole.begin) co_await patch_zeroes(offset, std::min(whole.begin, end), flags);
  if (whole.end < end) co_await patch_zeroes(whole.end, end, flags);
}

io::task<void> AligningDevice::discard(uint64_t offset, uint64_t length) {
  const Whole whole = whole_blocks(offset, offset + length);
  if (whole.begin >= whole.end) co_return;
  WriteOrder::Guard guard;
  co_await order_.acquire(guard, whole.begin, align_up<uint64_t>(whole.end, block_), /*exclusive=*/false);
  co_await inner_->discard(whole.begin, whole.end - whole.begin);
}

io::task<block::Extent> AligningDevice::map(uint64_t offset, uint64_t length) {
  const uint64_t before = offset - block_begin(offset);
  block::Extent extent =
      co_await inner_->map(offset - before, block_end(offset + length) - (offset - before));
  extent.length_bytes = std::min(extent.length_bytes - before, length);
  if (extent.host_offset) *extent.host_offset += before;
  co_return extent;
}

io::task<void> AligningDevice::resize(uint64_t length) {
  WriteOrder::Guard guard;
  co_await order_.acquire(guard, 0, UINT64_MAX, /*exclusive=*/true);
  co_await inner_->resize(length);
}

}  // namespace

std::unique_ptr<block::Device> make_aligning(std::unique_ptr<block::Device> inner, uint32_t alignment) {
  if (inner->limits().request_alignment <= alignment) return inner;
  return std::make_unique<AligningDevice>(std::move(inner), alignment);
}

}  // namespace cofre::layer
