// The list of chunks that a job's workers share.
//
// Only the home lane cuts chunks, because that asks devices for their maps. It cuts many at a time into a
// short queue under a std::mutex that every lane takes from: hopping to the home lane for each chunk instead
// would make a worker wait for whatever transfer the home lane is busy with. The lock is held for a few
// instructions, once a megabyte.
#pragma once

#include <array>
#include <cstddef>
#include <mutex>

#include "io/reactor.h"
#include "io/sync.h"
#include "job/job_control.h"

namespace cofre::job {

// Cutter has `io::task<bool> next(Chunk&)`, called on the home lane, one call at a time; false: no more.
template <typename Chunk, typename Cutter>
class WorkList {
 public:
  WorkList(JobControl& control, Cutter& cutter) : control_(control), cutter_(cutter) {}

  // Takes the next chunk; false: there is none, or the job stops. What was taken is to be finished. Returns
  // on the caller's lane.
  io::task<bool> take(Chunk& chunk) {
    // Where transfers complete without waiting (files in memory) nobody else on this lane would ever get to
    // run.
    co_await io::yield();
    if (control_.stopped()) co_return false;
    if (take_ready(chunk)) {
      // The home lane refills early, so that other lanes seldom have to wait for it.
      if (at_home() && should_refill()) co_await refill();
      co_return true;
    }
    io::Reactor& here = *io::Reactor::current();
    co_await io::enter(control_.home());
    bool taken = false;
    while (!control_.stopped()) {
      taken = take_ready(chunk);
      if (taken || exhausted_) break;
      co_await refill();
    }
    co_await io::enter(here);
    co_return taken;
  }

 private:
  static constexpr size_t kCapacity = 64;

  bool at_home() const noexcept { return io::Reactor::current() == &control_.home(); }

  bool take_ready(Chunk& chunk) {
    const std::lock_guard lock(mutex_);
    if (count_ == 0) return false;
    chunk = ring_[first_];
    first_ = (first_ + 1) % kCapacity;
    --count_;
    return true;
  }

  bool should_refill() {
    if (exhausted_ || cutting_.locked()) return false;
    const std::lock_guard lock(mutex_);
    return count_ < kCapacity / 2;
  }

  // Home lane.
  io::task<void> refill() {
    const io::Mutex::Guard guard = co_await cutting_.lock();
    while (!exhausted_ && !control_.stopped() && ready() < kCapacity) {
      Chunk chunk;
      if (co_await cutter_.next(chunk)) {
        append(chunk);
      } else {
        exhausted_ = true;
      }
    }
  }

  size_t ready() {
    const std::lock_guard lock(mutex_);
    return count_;
  }

  void append(const Chunk& chunk) {
    const std::lock_guard lock(mutex_);
    ring_[(first_ + count_) % kCapacity] = chunk;
    ++count_;
  }

  JobControl& control_;
  Cutter& cutter_;
  io::Mutex cutting_;       // home lane
  bool exhausted_ = false;  // home lane
  std::mutex mutex_;
  std::array<Chunk, kCapacity> ring_;  // under mutex_, as the two below
  size_t first_ = 0;
  size_t count_ = 0;
};

}  // namespace cofre::job
