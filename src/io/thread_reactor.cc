// The threads backend: blocking system calls on a pool of its own, for systems that do not permit io_uring.
#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "io/backends.h"
#include "io/execute.h"

namespace cofre::io {
namespace {

constexpr unsigned kPoolThreads = 8;

using Clock = std::chrono::steady_clock;

class ThreadReactor final : public Reactor {
 public:
  ~ThreadReactor() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    work_arrived_.notify_all();
    for (std::thread& worker : pool_) worker.join();
  }

  std::string_view backend() const noexcept override { return "threads"; }

  void submit(Operation& operation) override {
    if (operation.kind == OperationKind::kYield) {
      operation.result = 0;
      ready_.push(operation);
    } else if (operation.kind == OperationKind::kSleep) {
      operation.result = 0;
      sleeping_.emplace(Clock::now() + std::chrono::nanoseconds(operation.length), &operation);
    } else if (execute_in_memory(operation) || read_from_page_cache(operation)) {
      ready_.push(operation);
    } else if (hand_to_pool(operation)) {
      work_arrived_.notify_one();
    } else {  // the system gives no thread at all
      operation.result = execute_blocking(operation);
      ready_.push(operation);
    }
  }

 protected:
  void turn(bool may_block) override {
    wake_sleepers();
    take_completed(may_block && ready_.empty());
    for (size_t count = ready_.count(); count > 0; --count) {
      Operation* operation = ready_.pop();
      if (operation == nullptr) break;  // a loop within a coroutine ran it
      operation->waiter.resume();
    }
  }

  void interrupt() noexcept override {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    lane_wakes_.notify_one();
  }

 private:
  void wake_sleepers() {
    if (sleeping_.empty()) return;
    const Clock::time_point now = Clock::now();
    while (!sleeping_.empty() && sleeping_.begin()->first <= now) {
      ready_.push(*sleeping_.begin()->second);
      sleeping_.erase(sleeping_.begin());
    }
  }

  void take_completed(bool may_block) {
    std::unique_lock lock(mutex_);
    if (completed_.empty() && may_block && prepare_to_block()) {
      const auto awake = [this] { return !completed_.empty() || interrupted_; };
      if (sleeping_.empty()) {
        lane_wakes_.wait(lock, awake);
      } else {
        lane_wakes_.wait_until(lock, sleeping_.begin()->first, awake);
      }
      finished_blocking();
    }
    interrupted_ = false;
    while (Operation* operation = completed_.pop()) ready_.push(*operation);
  }

  // False if there is no thread in the pool, and none to be had.
  bool hand_to_pool(Operation& operation) {
    const std::lock_guard lock(mutex_);
    if (unfinished_ >= pool_.size() && pool_.size() < kPoolThreads && !add_thread() && pool_.empty())
      return false;
    waiting_.push(operation);
    ++unfinished_;
    return true;
  }

  bool add_thread() {
    // Signals are for the thread that made the lanes.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool added = true;
    try {
      pool_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      added = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return added;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_arrived_.wait(lock, [this] { return !waiting_.empty() || closing_; });
      Operation* operation = waiting_.pop();
      if (operation == nullptr) return;
      lock.unlock();
      operation->result = execute_blocking(*operation);
      lock.lock();
      --unfinished_;
      completed_.push(*operation);
      lane_wakes_.notify_one();
    }
  }

  // The lane's own.
  OperationQueue ready_;
  std::multimap<Clock::time_point, Operation*> sleeping_;

  std::mutex mutex_;
  std::condition_variable work_arrived_;
  std::condition_variable lane_wakes_;
  OperationQueue waiting_;
  OperationQueue completed_;
  size_t unfinished_ = 0;
  bool interrupted_ = false;
  bool closing_ = false;
  std::vector<std::thread> pool_;
};

}  // namespace

std::unique_ptr<Reactor> make_thread_reactor() {
  return std::make_unique<ThreadReactor>();
}

}  // namespace cofre::io
