// Orders writes that overlap, across lanes: a block::RangeLock whose holders may be on any lane.
#pragma once

#include <cstdint>
#include <mutex>

#include "io/reactor.h"

namespace cofre::layer {

// Shared and exclusive ranges, first come first served. Any lane may take and release; who waits is resumed
// on the lane it waits on. Must outlive its guards.
class WriteOrder {
 public:
  class Guard {
   public:
    Guard() = default;
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() { release(); }
    // Any lane may release.
    void release() noexcept;

   private:
    friend class WriteOrder;
    WriteOrder* order_ = nullptr;
    uint64_t begin_ = 0;
    uint64_t end_ = 0;
    bool exclusive_ = false;
    bool granted_ = false;
    Guard* previous_ = nullptr;
    Guard* next_ = nullptr;
    io::Reactor* lane_ = nullptr;
    io::Wakeup wakeup_;
  };

  struct Awaiter {
    WriteOrder& order;
    Guard& guard;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) noexcept { return !order.append(guard, waiter); }
    void await_resume() const noexcept {}
  };

  // co_await acquire(...) takes [begin, end) into `guard`, which must not move. An earlier range that
  // overlaps is waited for, unless both are shared.
  Awaiter acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept;

 private:
  // Enters the guard in the list; true if nothing stands against it.
  bool append(Guard& guard, std::coroutine_handle<> waiter) noexcept;
  void remove(Guard& guard) noexcept;
  static bool blocked(const Guard& guard) noexcept;

  std::mutex mutex_;  // held for walks over the list only
  Guard* first_ = nullptr;
  Guard* last_ = nullptr;
};

}  // namespace cofre::layer
