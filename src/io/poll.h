// Waiting for a descriptor, with a time limit and a way to be called back: for sockets and eventfds.
#pragma once

#include <poll.h>

#include <cerrno>
#include <cstdint>

#include "io/reactor.h"

namespace cofre::io {

// Calls one waiting coroutine back, and all that would wait with it later. One lane's; one waiter at a time.
class Cancel {
 public:
  void request() {
    if (requested_) return;
    requested_ = true;
    if (waiting_ != nullptr) Reactor::current()->cancel(*waiting_);
  }
  bool requested() const noexcept { return requested_; }

 private:
  friend struct PollAwaiter;
  Operation* waiting_ = nullptr;
  bool requested_ = false;
};

struct PollAwaiter {
  Operation operation;
  Cancel* cancel = nullptr;

  bool await_ready() noexcept {
    if (cancel == nullptr || !cancel->requested_) return false;
    operation.result = -ECANCELED;
    return true;
  }
  void await_suspend(std::coroutine_handle<> waiter) {
    operation.waiter = waiter;
    if (cancel != nullptr) cancel->waiting_ = &operation;
    Reactor::current()->submit(operation);
  }
  int64_t await_resume() const noexcept {
    if (cancel != nullptr) cancel->waiting_ = nullptr;
    return operation.result;
  }
};

// Waits until `fd` has one of `events` (poll(2): POLLIN, POLLOUT), or an error or hang-up, and gives what it
// has. -ETIME after `timeout_ns` (0: waits for ever), -ECANCELED when `cancel` was requested, -EBADF.
inline PollAwaiter async_poll(int fd, int events, Cancel* cancel = nullptr, uint64_t timeout_ns = 0) {
  return {{.kind = OperationKind::kPoll, .fd = fd, .mode = events, .length = timeout_ns}, cancel};
}
// Until a read of `fd` (an eventfd, a socket, a pipe) gives something.
inline PollAwaiter async_readable(int fd, Cancel* cancel = nullptr) {
  return async_poll(fd, POLLIN, cancel);
}

}  // namespace cofre::io
