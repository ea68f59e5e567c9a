#include "job/rebase.h"

#include <algorithm>
#include <atomic>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "io/sync.h"
#include "job/job_control.h"
#include "job/rebase_plan.h"
#include "job/work_list.h"

namespace cofre::job {
namespace {

uint64_t grain_of(const block::Device& overlay, const RebaseOptions& options) {
  const block::Limits& limits = overlay.limits();
  const uint64_t wanted = options.compressed ? limits.compressed_unit_bytes : options.grain_bytes;
  return std::max<uint64_t>(wanted, limits.request_alignment);
}

uint64_t preferred_bytes(const block::Device& overlay, const block::Device* new_backing) {
  uint64_t most = 0;
  for (const block::Device* top : {&overlay, new_backing})
    for (const block::Device* layer = top; layer != nullptr; layer = layer->backing())
      most = std::max(most, layer->limits().preferred_bytes);
  return most;
}

RebaseRules make_rules(const block::Device& overlay, const RebaseOptions& options) {
  const uint64_t grain = grain_of(overlay, options);
  const uint64_t chunk = chunk_bytes_for(preferred_bytes(overlay, options.new_backing));
  return {.chunk_bytes = align_up(chunk, grain),
          .grain_bytes = grain,
          .new_backing = options.new_backing,
          .new_is_below = options.new_is_below};
}

// What is to be done with some whole grains.
enum class Action { kNothing, kZero, kWrite };
struct Step {
  uint64_t length = 0;
  Action action = Action::kNothing;
};

// One rebase. Lives in rebase_on()'s frame; its workers run on all lanes.
class RebaseJob {
 public:
  RebaseJob(block::Device& overlay, const RebaseOptions& options)
      : overlay_(overlay),
        options_(options),
        rules_(make_rules(overlay, options)),
        control_("the rebase", overlay.length_bytes(), options.progress),
        plan_(overlay, rules_, control_),
        list_(control_, plan_),
        new_(options.new_backing != nullptr ? std::vector{options.new_backing}
                                            : std::vector<block::Device*>()) {}

  io::task<RebaseStats> run(const std::vector<io::Reactor*>& lanes) {
    const uint64_t worker_bytes = rules_.chunk_bytes * (options_.compressed ? 4 : 2);
    const unsigned workers = worker_count(options_.parallel, lanes.size(), worker_bytes);
    io::TaskGroup group;
    for (unsigned i = 0; i < workers; ++i) group.spawn_on(*lanes[lane_of_worker(i, lanes.size())], work());
    co_await group.join();
    control_.finish();
    co_return RebaseStats{.bytes_compared = compared_, .bytes_written = written_, .bytes_zeroed = zeroed_};
  }

 private:
  io::task<void> work() {
    try {
      co_await compare_chunks();
    } catch (...) {
      control_.stop();
      throw;
    }
  }

  io::task<void> compare_chunks() {
    AlignedBuffer before;
    AlignedBuffer after;
    RebaseChunk chunk;
    while (co_await list_.take(chunk)) {
      if (!before) before = AlignedBuffer(rules_.chunk_bytes);
      if (!after) after = AlignedBuffer(rules_.chunk_bytes);
      co_await overlay_.read(chunk.offset, before.bytes().first(chunk.length));
      co_await read_new(chunk.offset, after.bytes().first(chunk.length));
      compared_ += chunk.length;
      co_await keep(chunk.offset, std::as_const(before).bytes().first(chunk.length),
                    std::as_const(after).bytes().first(chunk.length));
      control_.advance(chunk.length);
    }
  }

  io::task<void> read_new(uint64_t offset, Bytes destination) const {
    if (options_.new_backing == nullptr) {
      std::ranges::fill(destination, std::byte{0});
      co_return;
    }
    co_await new_.read(offset, destination);
  }

  // The grain that `offset` is in, as far as it is in the bytes.
  Step first_grain(uint64_t offset, ConstBytes before, ConstBytes after) const noexcept {
    const uint64_t to_boundary = rules_.grain_bytes - offset % rules_.grain_bytes;
    const uint64_t length = std::min<uint64_t>(to_boundary, before.size());
    if (std::ranges::equal(before.first(length), after.first(length))) return {length, Action::kNothing};
    return {length, is_zero(before.first(length)) ? Action::kZero : Action::kWrite};
  }
  Step first_step(uint64_t offset, ConstBytes before, ConstBytes after) const noexcept {
    Step step = first_grain(offset, before, after);
    while (step.length < before.size()) {
      const Step next =
          first_grain(offset + step.length, before.subspan(step.length), after.subspan(step.length));
      if (next.action != step.action) break;
      step.length += next.length;
    }
    return step;
  }

  // Writes `before` where `after` would show something else.
  io::task<void> keep(uint64_t offset, ConstBytes before, ConstBytes after) {
    while (!before.empty()) {
      const Step step = first_step(offset, before, after);
      if (step.action == Action::kZero) {
        co_await overlay_.write_zeroes(offset, step.length, {.may_unmap = true});
        zeroed_ += step.length;
      } else if (step.action == Action::kWrite) {
        co_await write(offset, before.first(step.length));
        written_ += step.length;
      }
      offset += step.length;
      before = before.subspan(step.length);
      after = after.subspan(step.length);
    }
  }

  // How much of a write goes compressed: whole units, the last of which the disk's end may cut short. What
  // the overlay leaves to its backing file may begin and end within one.
  uint64_t compressed_bytes(uint64_t offset, uint64_t length) const noexcept {
    if (!options_.compressed || !is_aligned(offset, rules_.grain_bytes)) return 0;
    return offset + length == overlay_.length_bytes() ? length : align_down(length, rules_.grain_bytes);
  }

  io::task<void> write(uint64_t offset, ConstBytes bytes) {
    const uint64_t unit = rules_.grain_bytes;
    const uint64_t most = align_down(overlay_.limits().max_write_bytes, unit);
    while (!bytes.empty()) {
      const uint64_t compressed = compressed_bytes(offset, bytes.size());
      const uint64_t to_next_unit = options_.compressed ? unit - offset % unit : most;
      const uint64_t wanted = compressed > 0 ? compressed : std::min<uint64_t>(bytes.size(), to_next_unit);
      const uint64_t count = std::min(wanted, most);
      co_await overlay_.write(offset, bytes.first(count), {.compressed = compressed > 0});
      offset += count;
      bytes = bytes.subspan(count);
    }
  }

  block::Device& overlay_;
  const RebaseOptions& options_;
  const RebaseRules rules_;
  JobControl control_;
  RebasePlan plan_;
  WorkList<RebaseChunk, RebasePlan> list_;
  const Concatenation new_;  // empty without a new backing file
  std::atomic<uint64_t> compared_ = 0;
  std::atomic<uint64_t> written_ = 0;
  std::atomic<uint64_t> zeroed_ = 0;
};

}  // namespace

io::task<RebaseStats> rebase_on(std::vector<io::Reactor*> lanes, block::Device& overlay,
                                RebaseOptions options) {
  if (options.compressed && overlay.limits().compressed_unit_bytes == 0)
    fail(ErrorKind::kUnsupported, "'{}' cannot store anything compressed", overlay.name());
  RebaseJob job(overlay, options);
  co_return co_await job.run(lanes);
}

io::task<RebaseStats> rebase(io::Lanes& lanes, block::Device& overlay, RebaseOptions options) {
  return rebase_on(all_lanes(lanes), overlay, std::move(options));
}

}  // namespace cofre::job
