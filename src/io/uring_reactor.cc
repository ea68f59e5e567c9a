// The io_uring backend: one ring a lane. Operations gather in the submission queue while coroutines run and
// go to the kernel in one system call when none is left to run.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "io/backends.h"
#include "io/execute.h"

namespace cofre::io {
namespace {

constexpr unsigned kRingEntries = 256;

class UringReactor final : public Reactor {
 public:
  explicit UringReactor(io_uring ring) : ring_(ring) {
    event_fd_ = eventfd(0, EFD_CLOEXEC);
    if (event_fd_ < 0) {
      const int error = errno;
      io_uring_queue_exit(&ring_);
      fail_errno(error, "cannot make an eventfd for the I/O reactor");
    }
  }

  ~UringReactor() override {
    io_uring_queue_exit(&ring_);
    close(event_fd_);
  }

  std::string_view backend() const noexcept override { return "io_uring"; }

  void submit(Operation& operation) override {
    if (operation.kind == OperationKind::kYield) {
      operation.result = 0;
      ready_.push(operation);
    } else if (execute_in_memory(operation)) {  // io_uring hands these to a worker thread of its own
      ready_.push(operation);
    } else if (!backlog_.empty() || !start(operation)) {
      backlog_.push(operation);
    }
  }

  void cancel(Operation& operation) override {
    operation.cancelled = true;
    cancelled_.push_back(&operation);
    start_cancellations();
  }

 protected:
  void turn(bool may_block) override {
    start_cancellations();
    start_backlog();
    const bool ran = run_ready();
    if (!ran && may_block && reap() == 0 && arm_event() && prepare_to_block()) {
      check_submitted(io_uring_submit_and_wait(&ring_, 1));
      finished_blocking();
    } else if (io_uring_sq_ready(&ring_) > 0) {
      check_submitted(io_uring_submit(&ring_));
    }
    reap();
  }

  void interrupt() noexcept override {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_fd_, &one, sizeof one);
  }

 private:
  // An entry of the submission queue, or null while it is full and the kernel takes nothing: then completions
  // must be reaped first.
  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry != nullptr) return entry;
    check_submitted(io_uring_submit(&ring_));
    return io_uring_get_sqe(&ring_);
  }

  bool start(Operation& operation) {
    if (operation.kind == OperationKind::kPoll && operation.length != 0) return start_with_timeout(operation);
    io_uring_sqe* entry = next_entry();
    if (entry == nullptr) return false;
    prepare(entry, operation);
    io_uring_sqe_set_data(entry, &operation);
    return true;
  }

  // Two entries that go to the kernel together: the operation, and the time after which it is given up.
  bool start_with_timeout(Operation& operation) {
    if (io_uring_sq_space_left(&ring_) < 2) check_submitted(io_uring_submit(&ring_));
    if (io_uring_sq_space_left(&ring_) < 2) return false;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    prepare(entry, operation);
    io_uring_sqe_set_data(entry, &operation);
    entry->flags |= IOSQE_IO_LINK;
    io_uring_sqe* timeout = io_uring_get_sqe(&ring_);
    io_uring_prep_link_timeout(timeout, to_timespec(operation), 0);
    io_uring_sqe_set_data(timeout, &nobody_);
    return true;
  }

  // The timespec must outlive submission only; it is kept in the operation's own unused fields.
  static __kernel_timespec* to_timespec(Operation& operation) {
    static_assert(sizeof(__kernel_timespec) == 2 * sizeof(uint64_t));
    const uint64_t nanoseconds = operation.length;
    operation.length = nanoseconds / 1'000'000'000;
    operation.offset = nanoseconds % 1'000'000'000;
    return reinterpret_cast<__kernel_timespec*>(&operation.length);
  }

  // Of operations that wait in the backlog the kernel knows nothing: they end when their turn comes.
  void start_cancellations() {
    while (!cancelled_.empty()) {
      io_uring_sqe* entry = next_entry();
      if (entry == nullptr) return;
      io_uring_prep_cancel(entry, cancelled_.back(), 0);
      io_uring_sqe_set_data(entry, &nobody_);
      cancelled_.pop_back();
    }
  }

  void start_backlog() {
    while (!backlog_.empty()) {
      Operation& operation = *backlog_.front();
      if (operation.cancelled) {  // before it began
        operation.result = -ECANCELED;
        backlog_.pop();
        ready_.push(operation);
        continue;
      }
      if (!start(operation)) return;
      backlog_.pop();
    }
  }

  // Interrupted, out of memory for now, or too many completions not yet reaped: the next turn tries again.
  static void check_submitted(int submitted) {
    if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY)
      fail_errno(-submitted, "io_uring cannot start operations");
  }

  static void prepare(io_uring_sqe* entry, Operation& operation) {
    // The kernel's transfer lengths are 32 bits; longer ones are short transfers, which callers expect.
    const auto length = static_cast<unsigned>(std::min<uint64_t>(operation.length, 1u << 30));
    switch (operation.kind) {
      case OperationKind::kRead:
        io_uring_prep_read(entry, operation.fd, operation.buffer, length, operation.offset);
        break;
      case OperationKind::kWrite:
        io_uring_prep_write(entry, operation.fd, operation.buffer, length, operation.offset);
        break;
      case OperationKind::kDataSync:
        io_uring_prep_fsync(entry, operation.fd, IORING_FSYNC_DATASYNC);
        break;
      case OperationKind::kFallocate:
        io_uring_prep_fallocate(entry, operation.fd, operation.mode, static_cast<off_t>(operation.offset),
                                static_cast<off_t>(operation.length));
        break;
      case OperationKind::kSleep:
        io_uring_prep_timeout(entry, to_timespec(operation), 0, 0);
        break;
      case OperationKind::kPoll:
        io_uring_prep_poll_add(entry, operation.fd, static_cast<unsigned>(operation.mode));
        break;
      case OperationKind::kYield:
        break;
    }
  }

  // Resumes what was ready when called; what becomes ready meanwhile waits for the next turn.
  bool run_ready() {
    bool any = false;
    for (size_t count = ready_.count(); count > 0; --count) {
      Operation* operation = ready_.pop();
      if (operation == nullptr) break;  // a loop within a coroutine ran it
      any = true;
      operation->waiter.resume();
    }
    return any;
  }

  // Keeps a read of the eventfd in flight while the lane sleeps, so that post() can wake it. False: no room
  // for it now.
  bool arm_event() {
    if (event_armed_) return true;
    io_uring_sqe* entry = next_entry();
    if (entry == nullptr) return false;
    io_uring_prep_read(entry, event_fd_, &event_value_, sizeof event_value_, 0);
    io_uring_sqe_set_data(entry, nullptr);
    event_armed_ = true;
    return true;
  }

  unsigned reap() {
    unsigned resumed = 0;
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      auto* operation = static_cast<Operation*>(io_uring_cqe_get_data(completion));
      const int result = completion->res;
      io_uring_cqe_seen(&ring_, completion);
      if (operation == nullptr) {
        event_armed_ = false;
        continue;
      }
      if (operation == &nobody_) continue;
      if (operation->cancelled) std::erase(cancelled_, operation);
      operation->result = result_of(*operation, result);
      operation->waiter.resume();
      ++resumed;
    }
    return resumed;
  }

  static int result_of(const Operation& operation, int result) {
    if (operation.kind == OperationKind::kSleep && result == -ETIME) return 0;
    // The linked timeout ends a kPoll by cancelling it.
    if (operation.kind == OperationKind::kPoll && result == -ECANCELED && !operation.cancelled) return -ETIME;
    return result;
  }

  io_uring ring_;
  int event_fd_ = -1;
  uint64_t event_value_ = 0;
  bool event_armed_ = false;
  OperationQueue ready_;               // completed without the kernel
  OperationQueue backlog_;             // found the submission queue full
  std::vector<Operation*> cancelled_;  // the kernel was not told yet
  Operation nobody_;                   // stands for what nobody waits for
};

int make_ring(io_uring& ring) {
  std::memset(&ring, 0, sizeof ring);
  const int result = io_uring_queue_init(kRingEntries, &ring, IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN);
  if (result != -EINVAL) return result;
  return io_uring_queue_init(kRingEntries, &ring, 0);  // kernels before 5.19
}

}  // namespace

std::unique_ptr<Reactor> make_uring_reactor() {
  io_uring ring;
  const int result = make_ring(ring);
  if (result < 0) fail_errno(-result, "io_uring is not to be had here");
  return std::make_unique<UringReactor>(ring);
}

int io_uring_refusal() noexcept {
  io_uring ring;
  if (const int result = make_ring(ring); result < 0) return -result;
  io_uring_queue_exit(&ring);
  return 0;
}

}  // namespace cofre::io
