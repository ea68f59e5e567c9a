#include "io/socket.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace cofre::io {
namespace {

uint64_t now_ns() noexcept {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

int64_t or_errno(ssize_t result) noexcept {
  return result < 0 ? -errno : result;
}

bool would_block(int64_t result) noexcept {
  return result == -EAGAIN || result == -EWOULDBLOCK;
}

PollAwaiter wait_for(int fd, int events, Cancel* cancel, Deadline deadline) {
  return async_poll(fd, events, cancel, deadline.is_set() ? deadline.left_ns() : 0);
}

}  // namespace

Deadline Deadline::after_ns(uint64_t nanoseconds) noexcept {
  return {now_ns() + nanoseconds};
}

uint64_t Deadline::left_ns() const noexcept {
  const uint64_t now = now_ns();
  return at_ns > now ? at_ns - now : 1;
}

int64_t receive_now(int fd, Bytes into) noexcept {
  while (true) {
    const int64_t result = or_errno(::recv(fd, into.data(), into.size(), MSG_DONTWAIT));
    if (result != -EINTR) return result;
  }
}

task<int64_t> receive(int fd, Bytes into, Cancel* cancel, Deadline deadline) {
  while (true) {
    const int64_t result = receive_now(fd, into);
    if (!would_block(result)) co_return result;
    const int64_t events = co_await wait_for(fd, POLLIN, cancel, deadline);
    if (events < 0) co_return events;
  }
}

task<int64_t> send_some(int fd, const msghdr& message, Cancel* cancel, Deadline deadline) {
  while (true) {
    const int64_t result = or_errno(::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
    if (!would_block(result) && result != -EINTR) co_return result;
    const int64_t events = co_await wait_for(fd, POLLOUT, cancel, deadline);
    if (events < 0) co_return events;
  }
}

task<int64_t> send_all(int fd, ConstBytes bytes, Cancel* cancel, Deadline deadline) {
  while (!bytes.empty()) {
    iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    const int64_t sent = co_await send_some(fd, message, cancel, deadline);
    if (sent < 0) co_return sent;
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
  co_return 0;
}

task<int64_t> accept(int fd, Cancel* cancel) {
  while (true) {
    const int64_t result = or_errno(::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (result == -EINTR || result == -ECONNABORTED) continue;
    if (!would_block(result)) co_return result;
    const int64_t events = co_await async_poll(fd, POLLIN, cancel);
    if (events < 0) co_return events;
  }
}

}  // namespace cofre::io
