#include "block/range_lock.h"

namespace cofre::block {

void RangeLock::append(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept {
  guard.lock_ = this;
  guard.begin_ = begin;
  guard.end_ = end;
  guard.exclusive_ = exclusive;
  guard.granted_ = false;
  guard.previous_ = last_;
  guard.next_ = nullptr;
  (last_ != nullptr ? last_->next_ : first_) = &guard;
  last_ = &guard;
}

void RangeLock::remove(Guard& guard) noexcept {
  (guard.previous_ != nullptr ? guard.previous_->next_ : first_) = guard.next_;
  (guard.next_ != nullptr ? guard.next_->previous_ : last_) = guard.previous_;
  guard.lock_ = nullptr;
}

bool RangeLock::blocked(const Guard& guard) noexcept {
  for (const Guard* other = guard.previous_; other != nullptr; other = other->previous_) {
    const bool overlap = other->begin_ < guard.end_ && guard.begin_ < other->end_;
    if (overlap && (other->exclusive_ || guard.exclusive_)) return true;
  }
  return false;
}

bool RangeLock::try_acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept {
  append(guard, begin, end, exclusive);
  guard.granted_ = !blocked(guard);
  if (!guard.granted_) remove(guard);
  return guard.granted_;
}

io::task<void> RangeLock::acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) {
  append(guard, begin, end, exclusive);
  guard.granted_ = !blocked(guard);
  while (!guard.granted_) co_await guard.waiter_.wait();
}

void RangeLock::Guard::release() noexcept {
  if (lock_ == nullptr) return;
  Guard* later = next_;
  lock_->remove(*this);
  for (; later != nullptr; later = later->next_) {
    if (!later->granted_ && !blocked(*later)) {
      later->granted_ = true;
      later->waiter_.wake_one();
    }
  }
}

}  // namespace cofre::block
