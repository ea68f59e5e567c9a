// Sockets for coroutines: a system call that does not block, and where it would have, a wait for the
// descriptor. So a socket with something to give costs no trip through the reactor, and one without holds no
// thread, whatever the backend.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "base/bytes.h"
#include "io/poll.h"
#include "io/task.h"

namespace cofre::io {

// A moment on the monotonic clock, in nanoseconds; none: never.
struct Deadline {
  uint64_t at_ns = 0;
  static Deadline after_ns(uint64_t nanoseconds) noexcept;
  bool is_set() const noexcept { return at_ns != 0; }
  // At least 1 while it is set.
  uint64_t left_ns() const noexcept;
};

// Each gives what the system call gives, or -errno: -ETIME past the deadline, -ECANCELED.
//
// Up to into.size() bytes, as many as are there; 0: the peer sends no more.
task<int64_t> receive(int fd, Bytes into, Cancel* cancel = nullptr, Deadline deadline = {});
// The same with the first attempt made at once: -EAGAIN where it would have to wait. No coroutine.
int64_t receive_now(int fd, Bytes into) noexcept;
// As many bytes of the message as fit now; at least one.
task<int64_t> send_some(int fd, const msghdr& message, Cancel* cancel = nullptr, Deadline deadline = {});
// All of `bytes`; gives 0.
task<int64_t> send_all(int fd, ConstBytes bytes, Cancel* cancel = nullptr, Deadline deadline = {});
// The next connection's descriptor, close-on-exec and non-blocking.
task<int64_t> accept(int fd, Cancel* cancel = nullptr);

}  // namespace cofre::io
