#include "job/convert.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <exception>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "io/sync.h"
#include "job/concatenation.h"
#include "job/convert_plan.h"
#include "job/job_control.h"
#include "job/rate_limit.h"
#include "job/turnstile.h"
#include "job/work_list.h"
#include "job/zero_runs.h"

namespace cofre::job {
namespace {

constexpr uint64_t kLargestGrainBytes = 2 * kMiB;
constexpr uint64_t kLargestSparseBytes = 16 * kMiB;
// A hole shorter than this costs more as a chunk's end than as zeros read and found again.
constexpr uint64_t kLeastHoleBytes = 64 * kKiB;
// What a target that does not tell its own unit of allocation is taken to have (a page, a file system's
// block).
constexpr uint64_t kUsualGrainBytes = 4096;
// Writes of one chunk that are begun before any is over.
constexpr unsigned kMostWritesOfAChunk = 32;

// The unit in which the target allocates, and so leaves out or zeroes without touching a neighbour.
// Compressed clusters are stored or left out whole, as qemu-img has it.
uint64_t zero_grain(const block::Limits& limits, bool compressed) {
  if (compressed) return limits.compressed_unit_bytes;
  const uint32_t unit = limits.zero_alignment > 1 ? limits.zero_alignment : limits.discard_alignment;
  const uint64_t told = unit > 1 ? std::bit_floor(unit) : kUsualGrainBytes;
  return std::max<uint64_t>(std::min(told, kLargestGrainBytes), limits.request_alignment);
}

// Zeros are looked for in blocks of this size; a multiple of the grain.
uint64_t sparse_block(uint64_t sparse_bytes, uint64_t grain) {
  return align_up(std::clamp<uint64_t>(sparse_bytes, grain, kLargestSparseBytes), grain);
}

uint64_t end_of_job(const Concatenation& source, const block::Device& target, const ConvertOptions& options) {
  if (options.zero_tail) return target.length_bytes();
  return std::min(target.length_bytes(),
                  align_up<uint64_t>(source.padded_bytes(), target.limits().request_alignment));
}

uint64_t zeros_written_below(const block::Device& target, const ConvertOptions& options) {
  if (!options.target_reads_zero) return UINT64_MAX;
  if (!options.target_has_backing) return 0;
  return target.backing() != nullptr ? target.backing()->length_bytes() : UINT64_MAX;
}

// Whatever -S says of compressed clusters.
uint64_t sparse_block(const block::Limits& limits, const ConvertOptions& options) {
  const uint64_t grain = zero_grain(limits, options.compressed);
  return sparse_block(options.compressed ? grain : options.sparse_bytes, grain);
}

ConvertRules make_rules(const Concatenation& source, const block::Device& target,
                        const ConvertOptions& options) {
  const block::Limits& limits = target.limits();
  const uint64_t grain = zero_grain(limits, options.compressed);
  const uint64_t block = sparse_block(limits, options);
  const uint64_t chunk = chunk_bytes_for(std::max(limits.preferred_bytes, source.preferred_bytes()));
  return {.end = end_of_job(source, target, options),
          .chunk_bytes = div_ceil(chunk, block) * block,
          .zero_grain = grain,
          .request_grain = limits.request_alignment,
          .base_grain = options.compressed ? grain : limits.request_alignment,
          // Only zeros found by single grains come back as zeros when they were read with data.
          .least_hole_bytes = block == grain ? kLeastHoleBytes : 1,
          .holes_are_data = options.sparse_bytes == 0,
          .zeros_written_below = zeros_written_below(target, options)};
}

// One convert. Lives in convert_on()'s frame; its workers run on all lanes.
class ConvertJob {
 public:
  ConvertJob(const Concatenation& source, block::Device& target, const ConvertOptions& options)
      : source_(source),
        target_(target),
        options_(options),
        rules_(make_rules(source, target, options)),
        blocks_{sparse_block(target.limits(), options), rules_.zero_grain, rules_.end},
        control_("the conversion", rules_.end, options.progress),
        plan_(source, rules_, control_),
        list_(control_, plan_),
        rate_(options.bytes_per_second, control_),
        turnstile_(control_),
        offload_(options.source_file != nullptr && options.target_file != nullptr) {}

  io::task<ConvertStats> run(const std::vector<io::Reactor*>& lanes) {
    const auto start = std::chrono::steady_clock::now();
    const unsigned workers = worker_count(options_.parallel, lanes.size(), worker_bytes());
    io::TaskGroup group;
    for (unsigned i = 0; i < workers; ++i) group.spawn_on(*lanes[lane_of_worker(i, lanes.size())], work());
    co_await group.join();
    control_.finish();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    co_return ConvertStats{.bytes_read = read_,
                           .bytes_written = written_,
                           .bytes_zeroed = zeroed_,
                           .bytes_offloaded = offloaded_,
                           .bytes_skipped = skipped_ + plan_.skipped_bytes(),
                           .seconds = took.count()};
  }

 private:
  // A chunk as it is read; compressed, it is twice more in memory at most, to be packed and to be written.
  uint64_t worker_bytes() const noexcept { return rules_.chunk_bytes * (options_.compressed ? 3 : 1); }

  io::task<void> work() {
    std::exception_ptr failure;
    try {
      co_await move_chunks();
    } catch (...) {
      failure = std::current_exception();
    }
    if (!failure) co_return;
    control_.stop();
    co_await turnstile_.release_all();
    std::rethrow_exception(failure);
  }

  io::task<void> move_chunks() {
    AlignedBuffer buffer;
    ConvertChunk chunk;
    while (co_await list_.take(chunk)) {
      const bool by_kernel = may_offload(chunk);
      if (!chunk.zero) {
        if (!by_kernel) co_await read(chunk, buffer);
        co_await rate_.pace(chunk.length);
      }
      if (!options_.out_of_order && !co_await turnstile_.enter(chunk.ticket)) co_return;
      if (by_kernel && offload(chunk)) {
        if (!options_.out_of_order) co_await turnstile_.leave();
      } else {
        if (by_kernel) co_await read(chunk, buffer);
        co_await move_chunk(chunk, std::as_const(buffer).bytes());
      }
      control_.advance(chunk.length);
    }
  }

  io::task<void> read(const ConvertChunk& chunk, AlignedBuffer& buffer) {
    if (!buffer) buffer = AlignedBuffer(rules_.chunk_bytes);
    co_await source_.read(chunk.offset, buffer.bytes().first(chunk.length));
    read_ += chunk.length;
  }

  // What lies behind the source's end is padding, which its file does not have.
  bool may_offload(const ConvertChunk& chunk) const noexcept {
    return !chunk.zero && offload_.load(std::memory_order_relaxed) &&
           chunk.offset + chunk.length <= options_.source_file->length_bytes();
  }

  // False: the kernel does not do it for these files, nor will it for the next chunk; or it met an error,
  // which reading or writing will tell better.
  bool offload(const ConvertChunk& chunk) {
    if (!options_.target_file->copy_range(*options_.source_file, chunk.offset, chunk.offset, chunk.length)) {
      offload_.store(false, std::memory_order_relaxed);
      return false;
    }
    offloaded_ += chunk.length;
    written_ += chunk.length;
    return true;
  }

  // Begins all writes of a chunk before any need be over, and lets the next chunk begin its own then: so the
  // target is asked for space in rising order, and lays its clusters out so, though bytes move side by side.
  io::task<void> move_chunk(const ConvertChunk& chunk, ConstBytes buffer) {
    io::TaskGroup writes;
    std::exception_ptr failure;
    try {
      if (chunk.zero) {
        writes.spawn(zero(chunk.offset, chunk.length));
      } else {
        co_await write(writes, chunk.offset, buffer.first(chunk.length));
      }
      if (!options_.out_of_order) co_await turnstile_.leave();
    } catch (...) {
      failure = std::current_exception();
    }
    co_await writes.join();
    if (failure) std::rethrow_exception(failure);
  }

  io::task<void> zero(uint64_t offset, uint64_t length) {
    co_await target_.write_zeroes(offset, length, {.may_unmap = true});
    zeroed_ += length;
  }

  // Writes a chunk without its runs of zeros.
  io::task<void> write(io::TaskGroup& writes, uint64_t offset, ConstBytes bytes) {
    for (unsigned begun = 1; !bytes.empty(); ++begun) {
      const Run run = next_run(offset, bytes);
      const ConstBytes part = bytes.first(run.length);
      if (!run.zero) {
        writes.spawn(write_bytes(offset, part));
      } else if (offset >= rules_.zeros_written_below) {
        skipped_ += run.length;
      } else {
        writes.spawn(write_zero_run(offset, part));
      }
      offset += run.length;
      bytes = bytes.subspan(run.length);
      if (begun % kMostWritesOfAChunk == 0) co_await writes.join();
    }
  }

  Run next_run(uint64_t offset, ConstBytes bytes) const {
    if (options_.sparse_bytes == 0 || zeros_cost_writing_.load(std::memory_order_relaxed))
      return {bytes.size(), false};
    return first_run(bytes, offset, blocks_);
  }

  // Where the target would write zero bytes, that is no better than writing those at hand.
  io::task<void> write_zero_run(uint64_t offset, ConstBytes zeros) {
    bool cheap = true;
    try {
      co_await target_.write_zeroes(offset, zeros.size(), {.may_unmap = true, .no_fallback = true});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      cheap = false;
    }
    if (cheap) {
      zeroed_ += zeros.size();
      co_return;
    }
    zeros_cost_writing_.store(true, std::memory_order_relaxed);
    co_await write_bytes(offset, zeros);
  }

  // How much of a write goes compressed: the whole units. What is left ends within the target's last one, and
  // goes too, or the sources end before the target does.
  uint64_t compressed_bytes(uint64_t offset, uint64_t length) const noexcept {
    if (!options_.compressed) return 0;
    const bool to_the_end = offset + length == target_.length_bytes();
    return to_the_end ? length : align_down<uint64_t>(length, target_.limits().compressed_unit_bytes);
  }

  io::task<void> write_bytes(uint64_t offset, ConstBytes bytes) {
    const uint64_t most = align_down(target_.limits().max_write_bytes, rules_.request_grain);
    uint64_t compressed = compressed_bytes(offset, bytes.size());
    while (!bytes.empty()) {
      const bool compress = compressed > 0;
      const uint64_t count = std::min<uint64_t>(compress ? compressed : bytes.size(), most);
      co_await target_.write(offset, bytes.first(count),
                             {.compressed = compress, .no_overwrite = options_.no_overwrite});
      compressed -= compress ? count : 0;
      written_ += count;
      offset += count;
      bytes = bytes.subspan(count);
    }
  }

  const Concatenation& source_;
  block::Device& target_;
  const ConvertOptions& options_;
  const ConvertRules rules_;
  const ZeroBlocks blocks_;
  JobControl control_;
  ConvertPlan plan_;
  WorkList<ConvertChunk, ConvertPlan> list_;
  RateLimit rate_;
  Turnstile turnstile_;
  std::atomic<bool> zeros_cost_writing_ = false;
  std::atomic<uint64_t> read_ = 0;
  std::atomic<uint64_t> written_ = 0;
  std::atomic<uint64_t> zeroed_ = 0;
  std::atomic<bool> offload_;
  std::atomic<uint64_t> offloaded_ = 0;
  std::atomic<uint64_t> skipped_ = 0;
};

void check_request(const std::vector<block::Device*>& sources, const ConvertOptions& options) {
  if (sources.empty()) fail(ErrorKind::kInvalidArgument, "nothing to convert: no source given");
  if (options.source_base != nullptr && sources.size() > 1)
    fail(ErrorKind::kInvalidArgument, "a base makes no sense with {} sources to be joined", sources.size());
}

void check_compression(const block::Device& target, const ConvertOptions& options) {
  if (options.compressed && target.limits().compressed_unit_bytes == 0)
    fail(ErrorKind::kUnsupported, "'{}' cannot store anything compressed", target.name());
}

void check_lengths(const Concatenation& source, const block::Device& target) {
  if (target.length_bytes() >= source.length_bytes()) return;
  fail(ErrorKind::kInvalidArgument,
       "'{}' has {} bytes, fewer than the {} of the source: give a larger target", target.name(),
       target.length_bytes(), source.length_bytes());
}

}  // namespace

io::task<ConvertStats> convert_on(std::vector<io::Reactor*> lanes, std::vector<block::Device*> sources,
                                  block::Device& target, ConvertOptions options) {
  check_request(sources, options);
  const Concatenation source(std::move(sources), options.source_base, options.unreadable);
  check_lengths(source, target);
  check_compression(target, options);
  ConvertJob job(source, target, options);
  co_return co_await job.run(lanes);
}

io::task<ConvertStats> convert(io::Lanes& lanes, std::vector<block::Device*> sources, block::Device& target,
                               ConvertOptions options) {
  return convert_on(all_lanes(lanes), std::move(sources), target, std::move(options));
}

}  // namespace cofre::job
