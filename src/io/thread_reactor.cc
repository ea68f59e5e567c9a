// The threads backend: blocking system calls on a pool of its own, for systems that do not permit io_uring.
// Descriptors that somebody waits for (kPoll) are looked at by the lane itself: they take no thread.
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/backends.h"
#include "io/execute.h"

namespace cofre::io {
namespace {

constexpr unsigned kPoolThreads = 8;
// While coroutines are ready to run, descriptors are looked at once in so many turns.
constexpr unsigned kTurnsBetweenPolls = 16;

using Clock = std::chrono::steady_clock;

class ThreadReactor final : public Reactor {
 public:
  ThreadReactor() : event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (event_fd_ < 0) fail_errno(errno, "cannot make an eventfd for the I/O reactor");
  }

  ~ThreadReactor() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    work_arrived_.notify_all();
    for (std::thread& worker : pool_) worker.join();
    close(event_fd_);
  }

  std::string_view backend() const noexcept override { return "threads"; }

  void submit(Operation& operation) override {
    if (operation.kind == OperationKind::kYield) {
      operation.result = 0;
      ready_.push(operation);
    } else if (operation.kind == OperationKind::kSleep) {
      operation.result = 0;
      sleeping_.emplace(deadline_of(operation), &operation);
    } else if (operation.kind == OperationKind::kPoll) {
      polled_.push_back(&operation);
      operation.result = -ETIME;
      if (operation.length != 0) sleeping_.emplace(deadline_of(operation), &operation);
    } else if (execute_in_memory(operation) || read_from_page_cache(operation)) {
      ready_.push(operation);
    } else if (hand_to_pool(operation)) {
      work_arrived_.notify_one();
    } else {  // the system gives no thread at all
      operation.result = execute_blocking(operation);
      ready_.push(operation);
    }
  }

  void cancel(Operation& operation) override {
    const bool slept = stop_sleeping(operation);
    const bool polled = stop_polling(operation);
    if (slept || polled) complete(operation, -ECANCELED);
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
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_fd_, &one, sizeof one);
  }

 private:
  static Clock::time_point deadline_of(const Operation& operation) {
    return Clock::now() + std::chrono::nanoseconds(operation.length);
  }

  void complete(Operation& operation, int64_t result) {
    operation.result = result;
    ready_.push(operation);
  }

  bool stop_polling(Operation& operation) { return std::erase(polled_, &operation) > 0; }
  bool stop_sleeping(Operation& operation) {
    return std::erase_if(sleeping_, [&](const auto& sleeper) { return sleeper.second == &operation; }) > 0;
  }

  void wake_sleepers() {
    if (sleeping_.empty()) return;
    const Clock::time_point now = Clock::now();
    while (!sleeping_.empty() && sleeping_.begin()->first <= now) {
      Operation& operation = *sleeping_.begin()->second;
      sleeping_.erase(sleeping_.begin());
      stop_polling(operation);
      ready_.push(operation);
    }
  }

  void take_completed(bool may_block) {
    bool blocks = false;
    {
      const std::lock_guard lock(mutex_);
      blocks = completed_.empty() && may_block && prepare_to_block();
      lane_sleeps_ = blocks;
    }
    if (blocks || (!polled_.empty() && (may_block || ++turns_ % kTurnsBetweenPolls == 0)))
      look_at_descriptors(blocks);
    if (blocks) finished_blocking();
    const std::lock_guard lock(mutex_);
    lane_sleeps_ = false;
    while (Operation* operation = completed_.pop()) ready_.push(*operation);
  }

  // Waits, if it may, until a descriptor is ready, a sleeper's time has come or the lane is called.
  void look_at_descriptors(bool blocks) {
    descriptors_.clear();
    for (const Operation* operation : polled_)
      descriptors_.push_back(
          {.fd = operation->fd, .events = static_cast<short>(operation->mode), .revents = 0});
    descriptors_.push_back({.fd = event_fd_, .events = POLLIN, .revents = 0});
    const std::optional<timespec> timeout = blocks ? time_to_sleep() : timespec{};
    if (ppoll(descriptors_.data(), descriptors_.size(), timeout ? &*timeout : nullptr, nullptr) <= 0) return;
    if (descriptors_.back().revents != 0) {
      uint64_t calls = 0;
      [[maybe_unused]] const ssize_t got = read(event_fd_, &calls, sizeof calls);
    }
    for (size_t i = polled_.size(); i > 0; --i) {
      if (descriptors_[i - 1].revents == 0) continue;
      Operation& operation = *polled_[i - 1];
      polled_.erase(polled_.begin() + static_cast<ptrdiff_t>(i - 1));
      stop_sleeping(operation);
      const short events = descriptors_[i - 1].revents;
      complete(operation, (events & POLLNVAL) != 0 ? -EBADF : events);
    }
  }

  // Nothing: for ever.
  std::optional<timespec> time_to_sleep() const {
    if (sleeping_.empty()) return std::nullopt;
    const auto left = sleeping_.begin()->first - Clock::now();
    return timespec_of(static_cast<uint64_t>(
        std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::nanoseconds>(left).count())));
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
      if (std::exchange(lane_sleeps_, false)) interrupt();
    }
  }

  // The lane's own.
  int event_fd_;
  OperationQueue ready_;
  std::multimap<Clock::time_point, Operation*> sleeping_;  // and those of polled_ that have a time
  std::vector<Operation*> polled_;
  std::vector<pollfd> descriptors_;  // of one ppoll(2)
  unsigned turns_ = 0;

  std::mutex mutex_;
  std::condition_variable work_arrived_;
  OperationQueue waiting_;
  OperationQueue completed_;
  size_t unfinished_ = 0;
  bool lane_sleeps_ = false;  // and nobody has called it yet
  bool closing_ = false;
  std::vector<std::thread> pool_;
};

}  // namespace

std::unique_ptr<Reactor> make_thread_reactor() {
  return std::make_unique<ThreadReactor>();
}

}  // namespace cofre::io
