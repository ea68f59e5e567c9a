#include "export/nbd/channel.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/aligned_buffer.h"

namespace cofre::nbd {
namespace {

class SocketChannel final : public Channel {
 public:
  SocketChannel(int fd, io::Cancel& cancel) : fd_(fd), cancel_(cancel) {}

  io::task<int64_t> receive(Bytes into, io::Deadline deadline) override {
    return io::receive(fd_, into, &cancel_, deadline);
  }
  int64_t receive_now(Bytes into) override {
    return cancel_.requested() ? -ECANCELED : io::receive_now(fd_, into);
  }
  void stop_receiving() override { cancel_.request(); }

  io::task<int64_t> send(std::span<iovec> pieces, io::Deadline deadline) override {
    while (!pieces.empty()) {
      msghdr message = {};
      message.msg_iov = pieces.data();
      message.msg_iovlen = pieces.size();
      const int64_t sent = co_await io::send_some(fd_, message, nullptr, deadline);
      if (sent < 0) co_return sent;
      pieces = without(pieces, static_cast<size_t>(sent));
    }
    co_return 0;
  }

 private:
  // What is left of the pieces after their first `count` bytes.
  static std::span<iovec> without(std::span<iovec> pieces, size_t count) {
    while (!pieces.empty() && count >= pieces.front().iov_len) {
      count -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (count > 0) {
      pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + count;
      pieces.front().iov_len -= count;
    }
    return pieces;
  }

  int fd_;
  io::Cancel& cancel_;
};

}  // namespace

std::unique_ptr<Channel> make_socket_channel(int fd, io::Cancel& cancel) {
  return std::make_unique<SocketChannel>(fd, cancel);
}

io::task<bool> receive_exactly(Channel& channel, Bytes into, io::Deadline deadline) {
  while (!into.empty()) {
    const int64_t got = co_await channel.receive(into, deadline);
    if (got <= 0) co_return false;
    into = into.subspan(static_cast<size_t>(got));
  }
  co_return true;
}

io::task<bool> skip_bytes(Channel& channel, uint64_t count, io::Deadline deadline) {
  AlignedBuffer scratch(static_cast<size_t>(std::min<uint64_t>(count, 64 * 1024)));
  while (count > 0) {
    const auto piece = static_cast<size_t>(std::min<uint64_t>(count, scratch.size()));
    const int64_t got = co_await channel.receive(scratch.bytes().first(piece), deadline);
    if (got <= 0) co_return false;
    count -= static_cast<uint64_t>(got);
  }
  co_return true;
}

io::task<bool> send_bytes(Channel& channel, ConstBytes bytes, io::Deadline deadline) {
  std::array<iovec, 1> piece = {{{const_cast<std::byte*>(bytes.data()), bytes.size()}}};
  if (bytes.empty()) co_return true;
  co_return co_await channel.send(piece, deadline) == 0;
}

}  // namespace cofre::nbd
