// The threads backend: blocking system calls on a pool of its own, for systems that do not permit io_uring.
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "io/backends.h"
#include "io/execute.h"

namespace cofre::io {
namespace {

constexpr unsigned kPoolThreads = 8;

struct OperationQueue {
  Operation* head = nullptr;
  Operation* tail = nullptr;

  void push(Operation& operation) {
    operation.next = nullptr;
    (tail != nullptr ? tail->next : head) = &operation;
    tail = &operation;
  }
  Operation* pop() {
    Operation* operation = head;
    if (operation != nullptr) {
      head = operation->next;
      if (head == nullptr) tail = nullptr;
    }
    return operation;
  }
  Operation* take_all() {
    tail = nullptr;
    return std::exchange(head, nullptr);
  }
};

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
      const std::lock_guard lock(mutex_);
      completed_.push(operation);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      waiting_.push(operation);
      ++unfinished_;
      if (unfinished_ > pool_.size() && pool_.size() < kPoolThreads) pool_.emplace_back([this] { work(); });
    }
    work_arrived_.notify_one();
  }

 protected:
  void turn(bool may_block) override {
    Operation* operation = take_completed(may_block);
    while (operation != nullptr) {
      Operation* next = operation->next;
      operation->waiter.resume();
      operation = next;
    }
  }

  void interrupt() noexcept override {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    lane_wakes_.notify_one();
  }

 private:
  Operation* take_completed(bool may_block) {
    std::unique_lock lock(mutex_);
    if (completed_.head == nullptr && may_block && prepare_to_block()) {
      lane_wakes_.wait(lock, [this] { return completed_.head != nullptr || interrupted_; });
      finished_blocking();
    }
    interrupted_ = false;
    return completed_.take_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_arrived_.wait(lock, [this] { return waiting_.head != nullptr || closing_; });
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

std::unique_ptr<Reactor> make_thread_reactor() { return std::make_unique<ThreadReactor>(); }

}  // namespace cofre::io
