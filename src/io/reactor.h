// A reactor runs the coroutines of one lane: it starts operations of the operating system and resumes who
// waits.
//
// Backends: io_uring; threads (blocking calls on a small pool, where io_uring is not permitted); simulated (a
// seeded order of completions, for tests). Everything but post() belongs to the lane's own thread.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "io/task.h"

namespace cofre::io {

enum class OperationKind : uint8_t { kYield, kRead, kWrite, kDataSync, kFallocate, kSleep, kPoll };

// What the caller knows of the file: whether handing a small transfer to another thread costs more than doing
// it.
enum class Residence : uint8_t {
  kUnknown,
  kPageCache,  // read through the page cache: may well be there already
  kMemory,     // tmpfs and the like: a transfer never waits for a disk
};

// One operation in flight. It lives in the frame of the coroutine that waits for it, so it costs no
// allocation.
struct Operation {
  OperationKind kind = OperationKind::kYield;
  Residence residence = Residence::kUnknown;
  int fd = -1;
  bool cancelled = false;  // somebody called cancel()
  int mode = 0;            // kFallocate: its mode; kPoll: the events, as of poll(2)
  void* buffer = nullptr;
  uint64_t length = 0;  // bytes; kSleep: nanoseconds; kPoll: the same, at most so long (0: for ever)
  uint64_t offset = 0;  // bytes in the file
  int64_t result = 0;   // as the system call gives it; negative: -errno
  std::coroutine_handle<> waiter = nullptr;
  Operation* next = nullptr;  // for queues of the backend
};

// A FIFO of operations, linked through them.
class OperationQueue {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  size_t count() const noexcept { return count_; }
  Operation* front() const noexcept { return head_; }
  void push(Operation& operation) noexcept {
    operation.next = nullptr;
    (tail_ != nullptr ? tail_->next : head_) = &operation;
    tail_ = &operation;
    ++count_;
  }
  // The oldest, or null.
  Operation* pop() noexcept {
    Operation* first = head_;
    if (first == nullptr) return nullptr;
    head_ = first->next;
    if (head_ == nullptr) tail_ = nullptr;
    --count_;
    return first;
  }

 private:
  Operation* head_ = nullptr;
  Operation* tail_ = nullptr;
  size_t count_ = 0;
};

// A coroutine waiting to be resumed on a lane; it lives in that coroutine's frame.
struct Wakeup {
  std::coroutine_handle<> waiter = nullptr;
  Wakeup* next = nullptr;
};

class Reactor {
 public:
  Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;
  virtual ~Reactor();

  // The reactor of the lane this thread is, or null outside of one.
  static Reactor* current() noexcept;

  virtual std::string_view backend() const noexcept = 0;

  // Starts `operation`; its waiter is resumed later, on this thread, never from within submit().
  virtual void submit(Operation& operation) = 0;
  // Ends a kSleep or kPoll that was submitted and whose waiter was not resumed yet: soon it completes with
  // -ECANCELED, or as it would have anyway.
  virtual void cancel(Operation& operation) = 0;

  // Resumes wakeup.waiter on this reactor's thread. Any thread may call.
  void post(Wakeup& wakeup) noexcept;

  // Runs the loop on the calling thread until stop() is called (by any thread).
  void run();
  void stop() noexcept;

  // Runs the loop on the calling thread until `work` is done, and gives its result or throws its exception.
  // May be called from within a coroutine of this reactor, or of another one: the outer loop stands still
  // meanwhile.
  template <typename T>
  T run_until_done(task<T> work);

 protected:
  // Makes progress: completes operations, resumes waiters. Blocks for the next event only if `may_block`.
  virtual void turn(bool may_block) = 0;
  // Makes a blocked turn() return. Any thread may call.
  virtual void interrupt() noexcept = 0;
  // Resumes everything that was posted; true if anything was.
  bool resume_posted();
  // To be called by a backend around blocking: announces sleep, and returns false if there is work after all.
  bool prepare_to_block() noexcept;
  void finished_blocking() noexcept { asleep_.store(false, std::memory_order_relaxed); }

 private:
  void take_posted() noexcept;
  // While it lives, the calling thread is this reactor's lane.
  class OnLane {
   public:
    explicit OnLane(Reactor& reactor) noexcept;
    OnLane(const OnLane&) = delete;
    OnLane& operator=(const OnLane&) = delete;
    ~OnLane();

   private:
    Reactor* outer_;
  };
  void run_loop(const std::atomic<bool>& done);

  std::atomic<Wakeup*> posted_ = nullptr;
  std::atomic<bool> asleep_ = false;
  std::atomic<bool> stopping_ = false;
  // Posted and not yet resumed, oldest first; a loop within a coroutine goes on where the outer one stands.
  Wakeup* due_head_ = nullptr;
  Wakeup* due_tail_ = nullptr;
};

enum class Backend { kAutomatic, kIoUring, kThreads };

// kAutomatic: io_uring where the kernel permits it, else threads. Throws Error if a forced one is not to be
// had.
std::unique_ptr<Reactor> make_reactor(Backend backend = Backend::kAutomatic);
// The errno with which the kernel refuses io_uring to this process; 0 where it does not.
int io_uring_refusal() noexcept;
inline bool io_uring_permitted() noexcept {
  return io_uring_refusal() == 0;
}

// The operation as a blocking system call: what the call gives, or -errno.
int64_t execute_blocking(const Operation& operation);

// ---- awaitables: use within a coroutine that runs on a lane ----

struct OperationAwaiter {
  Operation operation;
  bool blocking = false;  // make the system call at once on this thread
  bool await_ready() {
    if (blocking) operation.result = execute_blocking(operation);
    return blocking;
  }
  void await_suspend(std::coroutine_handle<> waiter) {
    operation.waiter = waiter;
    Reactor::current()->submit(operation);
  }
  int64_t await_resume() const noexcept { return operation.result; }
};

// Each gives the byte count or 0, or -errno. Short transfers are possible: see storage/file for whole ones.
inline OperationAwaiter async_read(int fd, Bytes buffer, uint64_t offset,
                                   Residence residence = Residence::kUnknown) {
  return {{.kind = OperationKind::kRead,
           .residence = residence,
           .fd = fd,
           .buffer = buffer.data(),
           .length = buffer.size(),
           .offset = offset}};
}
inline OperationAwaiter async_write(int fd, ConstBytes buffer, uint64_t offset,
                                    Residence residence = Residence::kUnknown) {
  return {{.kind = OperationKind::kWrite,
           .residence = residence,
           .fd = fd,
           .buffer = const_cast<std::byte*>(buffer.data()),
           .length = buffer.size(),
           .offset = offset}};
}
inline OperationAwaiter async_data_sync(int fd) {
  return {{.kind = OperationKind::kDataSync, .fd = fd}};
}
inline OperationAwaiter async_fallocate(int fd, int mode, uint64_t offset, uint64_t length) {
  return {{.kind = OperationKind::kFallocate, .fd = fd, .mode = mode, .length = length, .offset = offset}};
}
// Lets everything else that is ready on this lane run first.
inline OperationAwaiter yield() {
  return {{.kind = OperationKind::kYield}};
}
inline OperationAwaiter sleep_ns(uint64_t nanoseconds) {
  return {{.kind = OperationKind::kSleep, .length = nanoseconds}};
}

// co_await enter(reactor): continues on that lane. Free when already there.
struct EnterAwaiter {
  Reactor& target;
  Wakeup wakeup{};
  bool await_ready() const noexcept { return Reactor::current() == &target; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    wakeup.waiter = waiter;
    target.post(wakeup);
  }
  void await_resume() const noexcept {}
};
inline EnterAwaiter enter(Reactor& target) {
  return {target};
}

namespace detail {

template <typename T>
struct Outcome {
  std::optional<T> value;
  std::exception_ptr exception;
  T take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};
template <>
struct Outcome<void> {
  std::exception_ptr exception;
  void take() const {
    if (exception) std::rethrow_exception(exception);
  }
};

template <typename T>
Detached run_to_outcome(task<T> work, Outcome<T>& outcome, Reactor& home, std::atomic<bool>& done) {
  try {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(work);
    } else {
      outcome.value.emplace(co_await std::move(work));
    }
  } catch (...) {
    outcome.exception = std::current_exception();
  }
  co_await enter(home);
  work = task<T>();  // the frame dies before the caller goes on
  done.store(true, std::memory_order_release);
}

}  // namespace detail

template <typename T>
T Reactor::run_until_done(task<T> work) {
  detail::Outcome<T> outcome;
  std::atomic<bool> done = false;
  const OnLane on_lane(*this);
  detail::run_to_outcome<T>(std::move(work), outcome, *this, done);
  run_loop(done);
  return outcome.take();
}

}  // namespace cofre::io
