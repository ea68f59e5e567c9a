#include "job/audit_wipe.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/units.h"

namespace cofre::job {
namespace {

constexpr uint64_t kPieceBytes = kMiB;

uint64_t unit_of(const block::Device& file) {
  return std::max<uint64_t>(file.limits().request_alignment, kSectorBytes);
}

// The range to ask for around [begin, end): whole units, or to the file's end.
struct Around {
  uint64_t begin;
  uint64_t end;
};
Around around(const block::Device& file, uint64_t begin, uint64_t end) {
  const uint64_t unit = unit_of(file);
  return {align_down(begin, unit), std::min(align_up(end, unit), file.length_bytes())};
}

uint64_t count_not_zero(ConstBytes bytes) {
  return bytes.size() - static_cast<uint64_t>(std::ranges::count(bytes, std::byte{0}));
}

// Bytes that share their first and last sector with others.
io::task<uint64_t> wipe_small(block::Device& file, uint64_t begin, uint64_t end) {
  const Around whole = around(file, begin, end);
  AlignedBuffer buffer(whole.end - whole.begin);
  co_await file.read(whole.begin, buffer.bytes());
  const Bytes bytes = buffer.bytes().subspan(begin - whole.begin, end - begin);
  const uint64_t found = count_not_zero(bytes);
  if (found == 0) co_return 0;
  std::ranges::fill(bytes, std::byte{0});
  co_await file.write(whole.begin, buffer.bytes());
  co_return found;
}

io::task<uint64_t> wipe_piece(block::Device& file, uint64_t begin, uint64_t end, bool give_back) {
  AlignedBuffer buffer(end - begin);
  co_await file.read(begin, buffer.bytes());
  const uint64_t found = count_not_zero(buffer.bytes());
  if (found != 0) co_await file.write_zeroes(begin, end - begin, {.may_unmap = give_back});
  co_return found;
}

}  // namespace

io::task<void> for_each_sector(block::Device& file, uint64_t begin, uint64_t end,
                               std::function<void(uint64_t offset, ConstBytes bytes)> visit) {
  end = std::min(end, file.length_bytes());
  while (begin < end) {
    const uint64_t stop = std::min(align_down(begin, kPieceBytes) + kPieceBytes, end);
    const Around whole = around(file, begin, stop);
    AlignedBuffer buffer(whole.end - whole.begin);
    co_await file.read(whole.begin, buffer.bytes());
    while (begin < stop) {
      const uint64_t next = std::min(align_down<uint64_t>(begin, kSectorBytes) + kSectorBytes, stop);
      visit(begin, buffer.bytes().subspan(begin - whole.begin, next - begin));
      begin = next;
    }
  }
}

io::task<void> write_bytes(block::Device& file, uint64_t offset, ConstBytes bytes) {
  const Around whole = around(file, offset, offset + bytes.size());
  AlignedBuffer buffer(whole.end - whole.begin);
  co_await file.read(whole.begin, buffer.bytes());
  std::memcpy(buffer.data() + (offset - whole.begin), bytes.data(), bytes.size());
  co_await file.write(whole.begin, buffer.bytes());
}

io::task<uint64_t> wipe(block::Device& file, uint64_t begin, uint64_t end, bool give_back) {
  const uint64_t unit = unit_of(file);
  end = std::min(end, file.length_bytes());
  uint64_t wiped = 0;
  while (begin < end) {
    if (const uint64_t whole = align_up(begin, unit); whole != begin || end - begin < unit) {
      const uint64_t stop = std::min(end, std::max(whole, begin + 1));
      const uint64_t cut = end - begin < unit ? end : stop;
      wiped += co_await wipe_small(file, begin, cut);
      begin = cut;
      continue;
    }
    const uint64_t stop = std::min(align_down(begin, kPieceBytes) + kPieceBytes, align_down(end, unit));
    const block::Extent extent = co_await file.map(begin, stop - begin);
    const uint64_t length = align_down(extent.length_bytes, unit);
    if (extent.zero && !extent.data && length > 0) {
      begin += length;
      continue;
    }
    wiped += co_await wipe_piece(file, begin, stop, give_back);
    begin = stop;
  }
  co_return wiped;
}

}  // namespace cofre::job
