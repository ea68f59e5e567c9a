// Orders requests that overlap: shared by readers, exclusive for writers, first come first served.
#pragma once

#include <cstdint>

#include "io/sync.h"

namespace cofre::block {

// Belongs to one lane. The ranges held at one time are few (requests in flight), so a list serves.
class RangeLock {
 public:
  class Guard {
   public:
    Guard() = default;
    Guard(Guard&&) = delete;
    Guard& operator=(Guard&&) = delete;
    ~Guard() { release(); }
    void release() noexcept;

   private:
    friend class RangeLock;
    RangeLock* lock_ = nullptr;
    uint64_t begin_ = 0;
    uint64_t end_ = 0;
    bool exclusive_ = false;
    bool granted_ = false;
    Guard* previous_ = nullptr;
    Guard* next_ = nullptr;
    io::WaitQueue waiter_;
  };

  // Takes [begin, end) into `guard`, which must not move and is released on its home lane. A later request
  // that overlaps waits for an earlier one, unless both are shared.
  io::task<void> acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive);
  // Like acquire when nothing stands against it; else takes nothing and returns false. No coroutine.
  bool try_acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept;

 private:
  void append(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept;
  void remove(Guard& guard) noexcept;
  // Whether an entry before `guard` in the list stands against it.
  static bool blocked(const Guard& guard) noexcept;

  Guard* first_ = nullptr;
  Guard* last_ = nullptr;
};

}  // namespace cofre::block
