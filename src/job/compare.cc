#include "job/compare.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/units.h"
#include "io/sync.h"
#include "job/compare_plan.h"
#include "job/concatenation.h"
#include "job/job_control.h"
#include "job/work_list.h"

namespace cofre::job {
namespace {

// The first sector in which the two differ; `a` and `b` have one length and do differ.
uint64_t first_difference(ConstBytes a, ConstBytes b) noexcept {
  uint64_t at = 0;
  while (at + kSectorBytes < a.size() && std::memcmp(a.data() + at, b.data() + at, kSectorBytes) == 0)
    at += kSectorBytes;
  return at;
}

uint64_t first_not_zero(ConstBytes bytes) noexcept {
  uint64_t at = 0;
  while (at + kSectorBytes < bytes.size() && is_zero(bytes.subspan(at, kSectorBytes))) at += kSectorBytes;
  return at;
}

// One compare. Lives in compare_on()'s frame; its workers run on all lanes.
class CompareJob {
 public:
  CompareJob(const Concatenation& a, const Concatenation& b, const CompareOptions& options)
      : a_(a),
        b_(b),
        options_(options),
        chunk_bytes_(chunk_bytes_for(std::max(a.preferred_bytes(), b.preferred_bytes()))),
        control_("the comparison", std::max(a.length_bytes(), b.length_bytes()), options.progress),
        plan_(a, b, std::max(a.length_bytes(), b.length_bytes()), chunk_bytes_, options.strict, control_),
        list_(control_, plan_) {}

  // Nothing: identical.
  io::task<std::optional<CompareStop>> run(const std::vector<io::Reactor*>& lanes) {
    const unsigned workers = worker_count(options_.parallel, lanes.size(), 2 * chunk_bytes_);
    io::TaskGroup group;
    for (unsigned i = 0; i < workers; ++i) group.spawn_on(*lanes[lane_of_worker(i, lanes.size())], work());
    co_await group.join();
    if (plan_.stop()) note(*plan_.stop());
    if (!first_) control_.finish();
    co_return first_;
  }

 private:
  io::task<void> work() {
    AlignedBuffer buffer_a;
    AlignedBuffer buffer_b;
    CompareChunk chunk;
    try {
      while (co_await list_.take(chunk)) {
        co_await check(chunk, buffer_a, buffer_b);
        control_.advance(chunk.length);
      }
    } catch (...) {
      control_.stop();
      throw;
    }
  }

  // Chunks are handed out in the order of offsets and finished once begun, so the least offset noted is the
  // first.
  io::task<void> check(const CompareChunk& chunk, AlignedBuffer& buffer_a, AlignedBuffer& buffer_b) {
    std::exception_ptr failure;
    try {
      if (chunk.read_a) co_await fill(a_, chunk, buffer_a);
      if (chunk.read_b) co_await fill(b_, chunk, buffer_b);
    } catch (const Error&) {
      failure = std::current_exception();
    }
    if (failure) {
      note({.offset = chunk.offset, .failure = failure});
      co_return;
    }
    if (const std::optional<uint64_t> at = mismatch(chunk, buffer_a, buffer_b))
      note({.offset = chunk.offset + *at, .outcome = CompareOutcome::kContentMismatch});
  }

  io::task<void> fill(const Concatenation& from, const CompareChunk& chunk, AlignedBuffer& buffer) const {
    if (!buffer) buffer = AlignedBuffer(chunk_bytes_);
    return from.read(chunk.offset, buffer.bytes().first(chunk.length));
  }

  static std::optional<uint64_t> mismatch(const CompareChunk& chunk, const AlignedBuffer& buffer_a,
                                          const AlignedBuffer& buffer_b) {
    if (chunk.read_a && chunk.read_b) {
      const ConstBytes a = buffer_a.bytes().first(chunk.length);
      const ConstBytes b = buffer_b.bytes().first(chunk.length);
      if (std::memcmp(a.data(), b.data(), chunk.length) == 0) return std::nullopt;
      return first_difference(a, b);
    }
    const ConstBytes only = (chunk.read_a ? buffer_a : buffer_b).bytes().first(chunk.length);
    if (is_zero(only)) return std::nullopt;
    return first_not_zero(only);
  }

  void note(const CompareStop& stop) {
    control_.stop();
    const std::lock_guard lock(mutex_);
    if (!first_ || stop.offset < first_->offset) first_ = stop;
  }

  const Concatenation& a_;
  const Concatenation& b_;
  const CompareOptions& options_;
  const uint64_t chunk_bytes_;
  JobControl control_;
  ComparePlan plan_;
  WorkList<CompareChunk, ComparePlan> list_;
  std::mutex mutex_;
  std::optional<CompareStop> first_;  // under mutex_
};

}  // namespace

io::task<CompareResult> compare_on(std::vector<io::Reactor*> lanes, block::Device& a, block::Device& b,
                                   const CompareOptions& options) {
  const Concatenation source_a({&a});
  const Concatenation source_b({&b});
  const uint64_t common = std::min(source_a.padded_bytes(), source_b.padded_bytes());
  CompareResult result;
  const bool sizes_differ = source_a.padded_bytes() != source_b.padded_bytes();
  if (sizes_differ && options.strict) co_return CompareResult{CompareOutcome::kSizeMismatch, common, false};
  CompareJob job(source_a, source_b, options);
  if (const std::optional<CompareStop> stop = co_await job.run(lanes)) {
    if (stop->failure) std::rethrow_exception(stop->failure);
    result.outcome = stop->outcome;
    result.offset = stop->offset;
  }
  result.sizes_differ =
      sizes_differ && (result.outcome == CompareOutcome::kIdentical || result.offset >= common);
  co_return result;
}

io::task<CompareResult> compare(io::Lanes& lanes, block::Device& a, block::Device& b,
                                const CompareOptions& options) {
  return compare_on(all_lanes(lanes), a, b, options);
}

}  // namespace cofre::job
