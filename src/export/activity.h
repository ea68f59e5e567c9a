// What clients ask of an export: how many requests there were and how long they took, and who changes the
// image just now.
//
// Each lane counts for itself, so counting takes no lock, no atomic exchange and no cache line that another
// lane writes. Whoever wants to know adds up the lanes. A request begins and ends on one lane.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "io/lanes.h"

namespace cofre::exporting {

enum class Op : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes, kCache, kBlockStatus, kOther };
inline constexpr unsigned kOps = 8;
// As status and metrics name it: "write_zeroes".
std::string_view op_name(Op op) noexcept;
inline bool changes_image(Op op) noexcept {
  return op == Op::kWrite || op == Op::kDiscard || op == Op::kWriteZeroes;
}

// Bucket n is for requests that took at most 2^n microseconds (and more than those of the bucket before), the
// last one for all that took longer.
inline constexpr unsigned kLatencyBuckets = 25;
unsigned latency_bucket(uint64_t nanoseconds) noexcept;

struct OpTotals {
  uint64_t requests = 0;  // that are over
  uint64_t errors = 0;    // of them
  uint64_t bytes = 0;     // that those without an error were about
  uint64_t nanoseconds = 0;
  std::array<uint64_t, kLatencyBuckets> took = {};
};

// One lane's; but add_to() may be called anywhere.
class alignas(64) LaneActivity {
 public:
  struct Begun {
    Op op = Op::kOther;
    uint8_t generation = 0;
    uint64_t at_ns = 0;
  };
  Begun begin(Op op) noexcept;
  void end(const Begun& begun, uint64_t bytes, bool failed) noexcept;

  void add_to(Op op, OpTotals& totals) const noexcept;

 private:
  friend class Activity;
  struct Counts {
    std::atomic<uint64_t> errors = 0;
    std::atomic<uint64_t> bytes = 0;
    std::atomic<uint64_t> nanoseconds = 0;
    std::array<std::atomic<uint64_t>, kLatencyBuckets> took = {};
  };
  std::array<Counts, kOps> counts_ = {};
  // Changes in flight that began in an even or in an odd generation.
  std::array<uint64_t, 2> changing_ = {};
  uint8_t generation_ = 0;
};

class Activity {
 public:
  explicit Activity(unsigned lanes) : lanes_(lanes), each_(std::make_unique<LaneActivity[]>(lanes)) {}

  LaneActivity& lane(unsigned index) noexcept { return each_[index]; }
  OpTotals totals(Op op) const noexcept;

  // Clients that may send requests now.
  void client_came() noexcept { clients_.fetch_add(1, std::memory_order_relaxed); }
  void client_went() noexcept { clients_.fetch_sub(1, std::memory_order_relaxed); }
  uint32_t clients() const noexcept { return clients_.load(std::memory_order_relaxed); }

  // Until every request that changes the image and had begun when this was called is over; those that begin
  // meanwhile are not waited for. One at a time. `lanes` are those that the requests run on. Comes back to
  // the lane it was awaited on.
  io::task<void> wait_for_changes(io::Lanes& lanes);

 private:
  unsigned lanes_;
  std::unique_ptr<LaneActivity[]> each_;
  std::atomic<uint32_t> clients_ = 0;
};

}  // namespace cofre::exporting
