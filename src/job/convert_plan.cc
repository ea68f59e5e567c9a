#include "job/convert_plan.h"

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"

namespace cofre::job {
namespace {

// Zeroed in one request: long enough to be cheap where the target only notes it, short enough to spread over
// lanes and to be cancelled where the target has to write. A multiple of every grain.
constexpr uint64_t kZeroChunkBytes = 32 * kMiB;
constexpr uint64_t kLongestRunBytes = kGiB;
// Asked of a map at once: finding the end of much data takes a file system long, and workers wait for the
// first chunk.
constexpr uint64_t kMapBytes = 64 * kMiB;

}  // namespace

io::task<ConvertPlan::Run> ConvertPlan::piece_at(uint64_t offset) {
  if (ahead_ && ahead_->start <= offset && offset < ahead_->end)
    co_return Run{offset, ahead_->end, ahead_->content};
  control_.poll();
  const Concatenation::Piece piece = co_await source_.map(offset, std::min(rules_.end, offset + kMapBytes));
  Content content = Content::kData;
  if (piece.left_to_base) {
    content = Content::kBase;
  } else if (piece.extent.zero && !rules_.holes_are_data) {
    content = Content::kZero;
  }
  co_return Run{offset, piece.end, content};
}

// Makes run_ the run that starts at `offset`, joining pieces of the same content.
io::task<void> ConvertPlan::load_run(uint64_t offset) {
  Run run = co_await piece_at(offset);
  const uint64_t longest = run.content == Content::kData ? rules_.chunk_bytes : kLongestRunBytes;
  while (run.end < rules_.end) {
    ahead_ = co_await piece_at(run.end);
    if (ahead_->content != run.content) break;
    if (run.end - run.start >= longest) {  // not followed further: cut where it hurts no grain
      if (run.content != Content::kData) run.end = align_down(run.end, rules_.zero_grain);
      break;
    }
    run.end = ahead_->end;
  }
  run_ = run;
}

ConvertPlan::Inner ConvertPlan::inner_of(const Run& run, uint64_t position) const noexcept {
  if (run.content == Content::kData) return {};
  const uint64_t grain = run.content == Content::kZero ? rules_.zero_grain : rules_.base_grain;
  Inner inner{std::max(align_up(run.start, grain), position),
              run.end == rules_.end ? run.end : align_down(run.end, grain)};
  const uint64_t least = run.content == Content::kZero ? rules_.least_hole_bytes : 1;
  if (!inner.empty() && inner.end - inner.start < least && inner.end != rules_.end) return {};
  return inner;
}

// Where a chunk of data that begins at `start` ends: at a multiple of the chunk's size, or before a run to be
// left out.
io::task<uint64_t> ConvertPlan::end_of_data(uint64_t start) {
  const uint64_t limit = std::min(rules_.end, (start / rules_.chunk_bytes + 1) * rules_.chunk_bytes);
  uint64_t end = start;
  while (end < limit) {
    if (end >= run_.end) co_await load_run(end);
    const Inner inner = inner_of(run_, end);
    if (!inner.empty()) co_return std::min(inner.start, limit);
    end = std::min(run_.end, limit);
  }
  co_return end;
}

void ConvertPlan::skip_to(uint64_t offset) {
  skipped_ += offset - position_;
  control_.advance(offset - position_);
  position_ = offset;
}

io::task<bool> ConvertPlan::next(ConvertChunk& chunk) {
  while (position_ < rules_.end) {
    if (position_ >= run_.end) co_await load_run(position_);
    const Inner inner = inner_of(run_, position_);
    if (inner.empty() || inner.start > position_) {
      const uint64_t end = co_await end_of_data(position_);
      chunk = {position_, end - position_, /*zero=*/false, ticket_++};
    } else if (run_.content == Content::kBase || position_ >= rules_.zeros_written_below) {
      skip_to(inner.end);
      continue;
    } else {
      const uint64_t limit = (position_ / kZeroChunkBytes + 1) * kZeroChunkBytes;
      chunk = {position_, std::min(inner.end, limit) - position_, /*zero=*/true, ticket_++};
    }
    position_ = chunk.offset + chunk.length;
    co_return true;
  }
  co_return false;
}

}  // namespace cofre::job
