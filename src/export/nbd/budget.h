// Bytes that requests of all connections may hold together: a semaphore that any lane may use, first come
// first served.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstdint>
#include <mutex>

#include "io/reactor.h"

namespace cofre::nbd {

class Budget {
 public:
  explicit Budget(uint64_t bytes) noexcept : capacity_(bytes), available_(bytes) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  struct Awaiter {
    Budget& budget;
    uint64_t bytes;
    io::Reactor* lane = nullptr;
    io::Wakeup wakeup{};
    Awaiter* next = nullptr;

    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) noexcept {
      const std::lock_guard lock(budget.mutex_);
      if (budget.head_ == nullptr && budget.available_ >= bytes) {
        budget.available_ -= bytes;
        return false;
      }
      lane = io::Reactor::current();
      wakeup.waiter = waiter;
      (budget.tail_ != nullptr ? budget.tail_->next : budget.head_) = this;
      budget.tail_ = this;
      return true;
    }
    void await_resume() const noexcept {}
  };

  // One that wants more than there is in all waits for all of it.
  Awaiter acquire(uint64_t bytes) noexcept { return {*this, std::min(bytes, capacity_)}; }
  void release(uint64_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    available_ += std::min(bytes, capacity_);
    while (head_ != nullptr && head_->bytes <= available_) {
      Awaiter* first = head_;
      head_ = first->next;
      if (head_ == nullptr) tail_ = nullptr;
      available_ -= first->bytes;
      first->lane->post(first->wakeup);
    }
  }

 private:
  const uint64_t capacity_;
  std::mutex mutex_;
  uint64_t available_;
  Awaiter* head_ = nullptr;
  Awaiter* tail_ = nullptr;
};

}  // namespace cofre::nbd
