// How coroutines wait for each other: Mutex and Semaphore within one lane, TaskGroup across lanes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <utility>

#include "io/reactor.h"

namespace cofre::io {

// A FIFO of coroutines of one lane. Those let go run in a later turn of the reactor, never inside the caller.
class WaitQueue {
 public:
  struct Awaiter {
    WaitQueue& queue;
    Wakeup wakeup{};
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept {
      wakeup.waiter = waiter;
      (queue.tail_ != nullptr ? queue.tail_->next : queue.head_) = &wakeup;
      queue.tail_ = &wakeup;
    }
    void await_resume() const noexcept {}
  };

  Awaiter wait() noexcept { return {*this}; }
  bool empty() const noexcept { return head_ == nullptr; }
  void wake_one() noexcept {
    Wakeup* first = head_;
    if (first == nullptr) return;
    head_ = first->next;
    if (head_ == nullptr) tail_ = nullptr;
    Reactor::current()->post(*first);
  }
  void wake_all() noexcept {
    while (!empty()) wake_one();
  }

 private:
  Wakeup* head_ = nullptr;
  Wakeup* tail_ = nullptr;
};

// Mutual exclusion between coroutines of one lane, first come first served.
class Mutex {
 public:
  class Guard {
   public:
    explicit Guard(Mutex* mutex) noexcept : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() { unlock(); }
    void unlock() noexcept {
      if (Mutex* mutex = std::exchange(mutex_, nullptr)) mutex->release();
    }

   private:
    Mutex* mutex_;
  };

  struct Awaiter {
    Mutex& mutex;
    WaitQueue::Awaiter inner;
    bool await_ready() noexcept {
      if (mutex.locked_) return false;
      mutex.locked_ = true;
      return true;
    }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { inner.await_suspend(waiter); }
    Guard await_resume() noexcept { return Guard(&mutex); }
  };

  Awaiter lock() noexcept { return {*this, waiters_.wait()}; }
  bool locked() const noexcept { return locked_; }

 private:
  void release() noexcept {
    if (waiters_.empty()) {
      locked_ = false;
    } else {
      waiters_.wake_one();  // ownership passes on; locked_ stays set
    }
  }

  bool locked_ = false;
  WaitQueue waiters_;
};

// Counts units (bytes in flight, requests) within one lane, first come first served: a large request is not
// starved by small ones. One larger than the whole capacity waits for all of it.
class Semaphore {
 public:
  explicit Semaphore(uint64_t capacity) noexcept : capacity_(capacity), available_(capacity) {}

  task<void> acquire(uint64_t units) { co_await Awaiter{*this, std::min(units, capacity_)}; }
  void release(uint64_t units) noexcept {
    available_ += std::min(units, capacity_);
    while (head_ != nullptr && head_->units <= available_) {
      Waiter* first = head_;
      head_ = first->next;
      if (head_ == nullptr) tail_ = nullptr;
      available_ -= first->units;  // they are the waiter's from now on, though it runs later
      Reactor::current()->post(first->wakeup);
    }
  }

 private:
  struct Waiter {
    uint64_t units = 0;
    Waiter* next = nullptr;
    Wakeup wakeup{};
  };
  struct Awaiter {
    Semaphore& semaphore;
    uint64_t units;
    Waiter waiter{};
    bool await_ready() noexcept {
      if (semaphore.head_ != nullptr || semaphore.available_ < units) return false;
      semaphore.available_ -= units;
      return true;
    }
    void await_suspend(std::coroutine_handle<> handle) noexcept {
      waiter.units = units;
      waiter.wakeup.waiter = handle;
      (semaphore.tail_ != nullptr ? semaphore.tail_->next : semaphore.head_) = &waiter;
      semaphore.tail_ = &waiter;
    }
    void await_resume() const noexcept {}
  };

  uint64_t capacity_;
  uint64_t available_;
  Waiter* head_ = nullptr;
  Waiter* tail_ = nullptr;
};

// Runs tasks side by side, on any lanes; join() waits for all and throws the first exception. join() must be
// awaited before the group is destroyed (else the program ends: tasks would write to a dead group). spawn()
// and join() belong to the lane that made the group.
class TaskGroup {
 public:
  TaskGroup() : home_(*Reactor::current()) {}
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup() {
    if (running_.load(std::memory_order_acquire) != 1) std::terminate();
  }

  void spawn(task<void> work) { spawn_on(home_, std::move(work)); }
  void spawn_on(Reactor& lane, task<void> work) {
    running_.fetch_add(1, std::memory_order_relaxed);
    try {
      run(*this, lane, std::move(work));
    } catch (...) {  // no memory for its frame
      running_.fetch_sub(1, std::memory_order_relaxed);
      throw;
    }
  }

  // Whether some task has failed: a chance for the others to stop early.
  bool failed() const noexcept { return failed_.load(std::memory_order_relaxed); }

  task<void> join() {
    co_await JoinAwaiter{*this};
    running_.store(1, std::memory_order_relaxed);  // may be used again
    if (std::exception_ptr first = std::exchange(first_exception_, nullptr)) {
      failed_.store(false, std::memory_order_relaxed);
      std::rethrow_exception(first);
    }
  }

 private:
  struct JoinAwaiter {
    TaskGroup& group;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiter) noexcept {
      group.joiner_.waiter = waiter;
      return group.running_.fetch_sub(1, std::memory_order_acq_rel) != 1;
    }
    void await_resume() const noexcept {}
  };

  static detail::Detached run(TaskGroup& group, Reactor& lane, task<void> work) {
    co_await enter(lane);
    try {
      co_await std::move(work);
    } catch (...) {
      group.note_failure(std::current_exception());
    }
    work = task<void>();  // the frame and its arguments die before join() returns
    Reactor& home = group.home_;
    Wakeup& joiner = group.joiner_;
    if (group.running_.fetch_sub(1, std::memory_order_acq_rel) == 1) home.post(joiner);
  }

  void note_failure(std::exception_ptr exception) noexcept {
    const std::lock_guard lock(exception_mutex_);
    if (!first_exception_) first_exception_ = std::move(exception);
    failed_.store(true, std::memory_order_relaxed);
  }

  Reactor& home_;
  std::atomic<uint64_t> running_ = 1;  // the tasks, and one for join()
  std::atomic<bool> failed_ = false;
  Wakeup joiner_;
  std::mutex exception_mutex_;
  std::exception_ptr first_exception_;
};

}  // namespace cofre::io
