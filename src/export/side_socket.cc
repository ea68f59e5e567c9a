#include "export/side_socket.h"

#include <cerrno>
#include <new>

#include "base/owned_fd.h"

namespace cofre::exporting {
namespace {

constexpr uint64_t kRetryNs = 100'000'000;

}  // namespace

SideSocket::SideSocket(nbd::Listener listener, unsigned most_connections, Conversation conversation)
    : listener_(std::move(listener)),
      most_connections_(most_connections),
      conversation_(std::move(conversation)) {
  running_.spawn(accept_clients());
}

io::task<void> SideSocket::accept_clients() {
  while (!cancel_.requested()) {
    if (conversations_.size() >= most_connections_) {
      co_await room_.wait();
      continue;
    }
    const int64_t result = co_await io::accept(listener_.fd(), &cancel_);
    if (result == -ECANCELED) co_return;
    if (result < 0) {  // no room in the system, for now
      co_await io::sleep_ns(kRetryNs);
      continue;
    }
    try {
      running_.spawn(converse(static_cast<int>(result)));
    } catch (const std::bad_alloc&) {
      ::close(static_cast<int>(result));
    }
  }
}

io::task<void> SideSocket::converse(int fd) {
  const OwnedFd owner(fd);
  const auto cancel = conversations_.emplace(conversations_.end());
  if (!cancel_.requested()) co_await conversation_(fd, *cancel);
  conversations_.erase(cancel);
  room_.wake_one();
}

io::task<void> SideSocket::stop() {
  cancel_.request();
  room_.wake_all();
  for (io::Cancel& conversation : conversations_) conversation.request();
  co_await running_.join();
}

}  // namespace cofre::exporting
