#include "job/compare_plan.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"

namespace cofre::job {
namespace {

// Pieces shorter than this are read together with their neighbours.
constexpr uint64_t kLeastPieceBytes = 64 * kKiB;
constexpr uint64_t kMapBytes = 64 * kMiB;  // asked of a map at once, see convert_plan.cc

}  // namespace

bool ComparePlan::alike(const block::Extent& a, const block::Extent& b) const noexcept {
  return !strict_ || (a.allocated == b.allocated && a.zero == b.zero && a.data == b.data &&
                      a.host_offset.has_value() == b.host_offset.has_value());
}

io::task<CompareChunk> ComparePlan::piece_at(uint64_t offset) {
  if (stop_ || offset >= end_) co_return CompareChunk{};
  control_.poll();
  try {
    const uint64_t limit = std::min(end_, offset + kMapBytes);
    if (piece_a_.end <= offset) piece_a_ = co_await a_.map(offset, limit);
    if (piece_b_.end <= offset) piece_b_ = co_await b_.map(offset, limit);
  } catch (const Error& error) {
    stop_ = CompareStop{.offset = offset, .failure = std::make_exception_ptr(MapFailed(error))};
    co_return CompareChunk{};
  }
  if (!alike(piece_a_.extent, piece_b_.extent)) {
    stop_ = CompareStop{.offset = offset, .outcome = CompareOutcome::kAllocationMismatch};
    co_return CompareChunk{};
  }
  co_return CompareChunk{.offset = offset,
                         .length = std::min(piece_a_.end, piece_b_.end) - offset,
                         .read_a = !piece_a_.extent.zero,
                         .read_b = !piece_b_.extent.zero};
}

io::task<bool> ComparePlan::next(CompareChunk& chunk) {
  chunk = CompareChunk{.offset = position_};
  uint64_t limit = (position_ / chunk_bytes_ + 1) * chunk_bytes_;
  while (position_ < limit) {
    const CompareChunk piece = co_await piece_at(position_);
    if (piece.length == 0) break;
    const bool same = piece.read_a == chunk.read_a && piece.read_b == chunk.read_b;
    if (chunk.length > 0 && !same && piece.length >= kLeastPieceBytes) break;
    if (!piece.read_a && !piece.read_b && chunk.length == 0) {  // zero in both: nothing to do
      position_ += piece.length;
      control_.advance(piece.length);
      chunk.offset = position_;
      limit = (position_ / chunk_bytes_ + 1) * chunk_bytes_;
      continue;
    }
    chunk.read_a |= piece.read_a;
    chunk.read_b |= piece.read_b;
    const uint64_t taken = std::min(piece.length, limit - position_);
    chunk.length += taken;
    position_ += taken;
  }
  co_return chunk.length > 0;
}

}  // namespace cofre::job
