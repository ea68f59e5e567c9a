#include "export/activity.h"

#include <time.h>

#include <algorithm>
#include <bit>

namespace cofre::exporting {
namespace {

constexpr uint64_t kNsPerUs = 1000;
constexpr uint64_t kNsPerSecond = 1'000'000'000;
constexpr uint64_t kLookNs = 1'000'000;

uint64_t now_ns() noexcept {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

// Nobody else writes it.
void add(std::atomic<uint64_t>& counter, uint64_t more) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace

std::string_view op_name(Op op) noexcept {
  constexpr std::array<std::string_view, kOps> kNames = {"read",         "write", "flush",        "discard",
                                                         "write_zeroes", "cache", "block_status", "other"};
  return kNames[static_cast<size_t>(op)];
}

unsigned latency_bucket(uint64_t nanoseconds) noexcept {
  const uint64_t whole_us = nanoseconds > 0 ? (nanoseconds - 1) / kNsPerUs : 0;
  return std::min<unsigned>(static_cast<unsigned>(std::bit_width(whole_us)), kLatencyBuckets - 1);
}

LaneActivity::Begun LaneActivity::begin(Op op) noexcept {
  if (changes_image(op)) ++changing_[generation_];
  return {.op = op, .generation = generation_, .at_ns = now_ns()};
}

void LaneActivity::end(const Begun& begun, uint64_t bytes, bool failed) noexcept {
  const uint64_t took_ns = now_ns() - begun.at_ns;
  Counts& counts = counts_[static_cast<size_t>(begun.op)];
  add(counts.took[latency_bucket(took_ns)], 1);
  add(counts.nanoseconds, took_ns);
  add(failed ? counts.errors : counts.bytes, failed ? 1 : bytes);
  if (changes_image(begun.op)) --changing_[begun.generation];
}

void LaneActivity::add_to(Op op, OpTotals& totals) const noexcept {
  const Counts& counts = counts_[static_cast<size_t>(op)];
  totals.errors += counts.errors.load(std::memory_order_relaxed);
  totals.bytes += counts.bytes.load(std::memory_order_relaxed);
  totals.nanoseconds += counts.nanoseconds.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < kLatencyBuckets; ++i) {
    const uint64_t requests = counts.took[i].load(std::memory_order_relaxed);
    totals.took[i] += requests;
    totals.requests += requests;
  }
}

OpTotals Activity::totals(Op op) const noexcept {
  OpTotals totals;
  for (unsigned lane = 0; lane < lanes_; ++lane) each_[lane].add_to(op, totals);
  return totals;
}

// Each lane turns to its other generation, in which nobody is left from the last time.
io::task<void> Activity::wait_for_changes(io::Lanes& lanes) {
  io::Reactor& back = *io::Reactor::current();
  for (unsigned i = 0; i < lanes_; ++i) {
    co_await io::enter(lanes.lane(i));
    LaneActivity& lane = each_[i];
    const uint8_t old = lane.generation_;
    lane.generation_ = old ^ 1;
    while (lane.changing_[old] > 0) co_await io::sleep_ns(kLookNs);
  }
  co_await io::enter(back);
}

}  // namespace cofre::exporting
