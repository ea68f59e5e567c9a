#include "layer/write_order.h"

namespace cofre::layer {

WriteOrder::Awaiter WriteOrder::acquire(Guard& guard, uint64_t begin, uint64_t end, bool exclusive) noexcept {
  guard.begin_ = begin;
  guard.end_ = end;
  guard.exclusive_ = exclusive;
  return {*this, guard};
}

bool WriteOrder::append(Guard& guard, std::coroutine_handle<> waiter) noexcept {
  guard.lane_ = io::Reactor::current();
  guard.wakeup_.waiter = waiter;
  const std::lock_guard lock(mutex_);
  guard.order_ = this;
  guard.previous_ = last_;
  guard.next_ = nullptr;
  (last_ != nullptr ? last_->next_ : first_) = &guard;
  last_ = &guard;
  guard.granted_ = !blocked(guard);
  return guard.granted_;
}

void WriteOrder::remove(Guard& guard) noexcept {
  (guard.previous_ != nullptr ? guard.previous_->next_ : first_) = guard.next_;
  (guard.next_ != nullptr ? guard.next_->previous_ : last_) = guard.previous_;
  guard.order_ = nullptr;
}

bool WriteOrder::blocked(const Guard& guard) noexcept {
  for (const Guard* other = guard.previous_; other != nullptr; other = other->previous_) {
    const bool overlap = other->begin_ < guard.end_ && guard.begin_ < other->end_;
    if (overlap && (other->exclusive_ || guard.exclusive_)) return true;
  }
  return false;
}

void WriteOrder::Guard::release() noexcept {
  if (order_ == nullptr) return;
  // Waiters are posted under the mutex: none of them can release, and so disappear, before the walk is over.
  WriteOrder& order = *order_;
  const std::lock_guard lock(order.mutex_);
  Guard* later = next_;
  order.remove(*this);
  for (; later != nullptr; later = later->next_) {
    if (later->granted_ || blocked(*later)) continue;
    later->granted_ = true;
    later->lane_->post(later->wakeup_);
  }
}

}  // namespace cofre::layer
