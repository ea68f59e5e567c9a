#include "job/concatenation.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::job {
namespace {

// No image is longer: qcow2 and files end at 2^63, and sums of lengths must not wrap.
constexpr uint64_t kLongest = uint64_t{1} << 62;

}  // namespace

Concatenation::Concatenation(std::vector<block::Device*> devices, block::Device* base,
                             TellUnreadable unreadable)
    : base_(base), unreadable_(std::move(unreadable)) {
  for (block::Device* device : devices) {
    const uint64_t length = device->length_bytes();
    if (length > kLongest || padded_ > kLongest - length)
      fail(ErrorKind::kLimit, "'{}': the sources are together longer than {} bytes", device->name(),
           kLongest);
    spans_.push_back({device, padded_, length});
    length_ = padded_ + length;
    padded_ = align_up<uint64_t>(length_, kSectorBytes);
    for (const block::Device* layer = device; layer != nullptr; layer = layer->backing())
      preferred_ = std::max(preferred_, layer->limits().preferred_bytes);
  }
}

// The last span that starts at or before `offset` (of several that start there, the only one with bytes).
const Concatenation::Span& Concatenation::span_at(uint64_t offset) const noexcept {
  const auto after = std::upper_bound(spans_.begin(), spans_.end(), offset,
                                      [](uint64_t value, const Span& span) { return value < span.start; });
  return *std::prev(after);
}

uint64_t Concatenation::end_of_padding(const Span& span) const noexcept {
  return &span == &spans_.back() ? UINT64_MAX : span.start + align_up<uint64_t>(span.length, kSectorBytes);
}

io::task<Concatenation::Piece> Concatenation::map(uint64_t offset, uint64_t limit) const {
  const Span& span = span_at(offset);
  const uint64_t inside = offset - span.start;
  if (inside >= span.length)
    co_return Piece{.end = std::min(limit, end_of_padding(span)), .extent = {.zero = true}};
  if (!unreadable_) co_return co_await map_span(span, offset, limit);
  std::optional<Error> failure;
  try {
    co_return co_await map_span(span, offset, limit);
  } catch (const Error& error) {
    failure = error;
  }
  unreadable_({.offset = offset, .is_map = true, .error = *failure});
  // Perhaps the map of what comes next can be read.
  const uint64_t end =
      span.start + std::min(span.length, align_down(inside, salvage_unit(span)) + salvage_unit(span));
  co_return Piece{.end = std::min(limit, end), .extent = {.allocated = true, .data = true}};
}

io::task<Concatenation::Piece> Concatenation::map_span(const Span& span, uint64_t offset,
                                                       uint64_t limit) const {
  const uint64_t inside = offset - span.start;
  // A lookup may start early and end late to suit the device's alignment.
  const uint64_t alignment = span.device->limits().request_alignment;
  const uint64_t from = align_down(inside, alignment);
  const uint64_t to =
      std::min(span.length, align_up<uint64_t>(std::min(limit - span.start, span.length), alignment));
  const block::ChainExtent found = co_await block::map_chain(*span.device, from, to - from, base_);
  const uint64_t end = from + found.extent.length_bytes;
  Piece piece{.end = std::min(limit, span.start + end), .extent = found.extent};
  piece.left_to_base = base_ != nullptr && !found.extent.allocated && found.layer->backing() == base_;
  if (is_aligned(end, alignment) || end == span.length) co_return piece;
  // A backing device of odd length ends within a block: what the map says of it holds for the blocks before.
  if (align_down(end, alignment) > inside) {
    piece.end = std::min(limit, span.start + align_down(end, alignment));
    co_return piece;
  }
  co_return Piece{.end = std::min(limit, span.start + std::min(span.length, align_up(end, alignment))),
                  .extent = {.allocated = true, .data = true}};
}

io::task<void> Concatenation::read(uint64_t offset, Bytes destination) const {
  while (!destination.empty()) {
    const Span& span = span_at(offset);
    const uint64_t inside = offset - span.start;
    uint64_t count = 0;
    if (inside < span.length) {
      count = std::min<uint64_t>(destination.size(), span.length - inside);
      co_await read_span(span, inside, destination.first(count));
    } else {
      count = std::min<uint64_t>(destination.size(), end_of_padding(span) - offset);
      std::memset(destination.data(), 0, count);
    }
    offset += count;
    destination = destination.subspan(count);
  }
}

// What is read, or lost, at once when a larger request failed.
uint64_t Concatenation::salvage_unit(const Span& span) noexcept {
  return std::max<uint64_t>(kSectorBytes, span.device->limits().request_alignment);
}

io::task<void> Concatenation::read_span(const Span& span, uint64_t inside, Bytes destination) const {
  if (!unreadable_) co_return co_await read_device(*span.device, inside, destination);
  try {
    co_return co_await read_device(*span.device, inside, destination);
  } catch (const Error&) {  // by units it is found out which of them are meant
  }
  co_await read_by_units(span, inside, destination);
}

io::task<void> Concatenation::read_by_units(const Span& span, uint64_t inside, Bytes destination) const {
  const uint64_t unit = salvage_unit(span);
  while (!destination.empty()) {
    const uint64_t count = std::min<uint64_t>(destination.size(), unit - inside % unit);
    try {
      co_await read_device(*span.device, inside, destination.first(count));
    } catch (const Error& error) {
      unreadable_({.offset = span.start + inside, .error = error});
      std::memset(destination.data(), 0, count);
    }
    inside += count;
    destination = destination.subspan(count);
  }
}

io::task<void> Concatenation::read_device(block::Device& device, uint64_t offset, Bytes destination) {
  const uint64_t alignment = device.limits().request_alignment;
  const uint64_t end = offset + destination.size();
  const bool end_fits = is_aligned(end, alignment) || end == device.length_bytes();
  if (is_aligned(offset, alignment) && end_fits) {
    co_await device.read(offset, destination);
    co_return;
  }
  const uint64_t from = align_down(offset, alignment);
  const uint64_t to = std::min(align_up(end, alignment), device.length_bytes());
  AlignedBuffer whole(to - from);
  co_await device.read(from, whole.bytes());
  std::memcpy(destination.data(), whole.data() + (offset - from), destination.size());
}

}  // namespace cofre::job
