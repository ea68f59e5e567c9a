#include "job/rebase_plan.h"

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"

namespace cofre::job {
namespace {

constexpr uint64_t kMapBytes = 64 * kMiB;  // asked of a map at once, see convert_plan.cc
// Runs that need no comparison, shorter than this, are compared with their neighbours.
constexpr uint64_t kLeastGapBytes = 64 * kKiB;

std::optional<Concatenation> concatenation_of(block::Device* device) {
  return device != nullptr ? std::optional<Concatenation>(std::vector{device}) : std::nullopt;
}

}  // namespace

RebasePlan::RebasePlan(block::Device& overlay, const RebaseRules& rules, JobControl& control)
    : overlay_(overlay),
      rules_(rules),
      control_(control),
      old_({&overlay}),
      new_(concatenation_of(rules.new_backing)),
      end_(overlay.length_bytes()) {}

// Whether what the overlay leaves to its backing file from `offset` on reads the same through the new one;
// shortens `end` to where that is known.
io::task<bool> RebasePlan::reads_the_same(uint64_t offset, uint64_t& end) {
  if (overlay_.backing() == rules_.new_backing) co_return true;
  if (rules_.new_is_below) {
    const block::ChainExtent found =
        co_await block::map_chain(overlay_, offset, end - offset, rules_.new_backing);
    end = offset + found.extent.length_bytes;
    if (!found.extent.allocated) co_return true;  // no layer above the new one decides
  }
  const Concatenation::Piece before = co_await old_.map(offset, end);
  end = before.end;
  if (!before.extent.zero) co_return false;
  if (!new_) co_return true;
  const Concatenation::Piece after = co_await new_->map(offset, end);
  end = after.end;
  co_return after.extent.zero;
}

io::task<RebasePlan::Piece> RebasePlan::piece_at(uint64_t offset) {
  if (piece_.start <= offset && offset < piece_.end) co_return piece_;
  control_.poll();
  const uint64_t limit = std::min(end_, offset + kMapBytes);
  const block::Extent extent = co_await overlay_.map(offset, limit - offset);
  piece_ = {.start = offset, .end = offset + extent.length_bytes, .same = true, .overlay = extent.allocated};
  if (!extent.allocated) piece_.same = co_await reads_the_same(offset, piece_.end);
  co_return piece_;
}

void RebasePlan::skip_to(uint64_t offset) {
  control_.advance(offset - position_);
  position_ = offset;
}

// Where a chunk that begins at `start` ends: at a multiple of the chunk's size, where the overlay has its own
// again, or before whole grains that are the same, if they are worth a cut.
io::task<uint64_t> RebasePlan::end_of_chunk(uint64_t start) {
  const uint64_t limit = std::min(end_, (start / rules_.chunk_bytes + 1) * rules_.chunk_bytes);
  uint64_t end = start;
  while (end < limit) {
    const Piece piece = co_await piece_at(end);
    if (piece.overlay) break;
    const uint64_t inner = align_up(end, rules_.grain_bytes);
    const uint64_t last = piece.end == end_ ? end_ : align_down(piece.end, rules_.grain_bytes);
    if (piece.same && last >= inner + kLeastGapBytes) co_return std::min(inner, limit);
    end = std::min(piece.end, limit);
  }
  co_return end;
}

io::task<bool> RebasePlan::next(RebaseChunk& chunk) {
  while (position_ < end_) {
    const Piece piece = co_await piece_at(position_);
    const bool cut_anywhere = piece.overlay || piece.end == end_;
    const uint64_t end = cut_anywhere ? piece.end : align_down(piece.end, rules_.grain_bytes);
    if (piece.same && end > position_) {
      skip_to(end);
      continue;
    }
    chunk.offset = position_;
    position_ = co_await end_of_chunk(position_);
    chunk.length = position_ - chunk.offset;
    co_return true;
  }
  co_return false;
}

}  // namespace cofre::job
