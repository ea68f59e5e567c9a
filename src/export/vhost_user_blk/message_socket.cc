#include "export/vhost_user_blk/message_socket.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "base/error.h"

namespace cofre::vhost {
namespace {

constexpr uint64_t kReplyNs = 10'000'000'000;  // a front end that does not take a reply in this time is dead

// Every descriptor is taken, also when there are too many: else they would stay open.
bool take_descriptors(const msghdr& message, std::vector<OwnedFd>& into) {
  for (const cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(const_cast<msghdr*>(&message), const_cast<cmsghdr*>(part))) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      into.emplace_back(fd);
    }
  }
  return (message.msg_flags & MSG_CTRUNC) == 0 && into.size() <= kMostDescriptors;
}

}  // namespace

io::task<int64_t> MessageSocket::receive_some(Bytes into, std::vector<OwnedFd>& descriptors) {
  while (true) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control = {};
    iovec piece = {into.data(), into.size()};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got >= 0) {
      if (!take_descriptors(message, descriptors))
        fail(ErrorKind::kInvalidArgument, "a message with more than {} descriptors", kMostDescriptors);
      co_return got;
    }
    const int error = errno;
    if (error == EINTR) continue;
    if (error != EAGAIN && error != EWOULDBLOCK) co_return -error;
    const int64_t events = co_await io::async_poll(socket_.get(), POLLIN, &cancel_);
    if (events < 0) co_return events;
  }
}

// False: the peer is gone, or somebody wants us to stop, where `may_end` is set and nothing came yet.
io::task<bool> MessageSocket::fill(Bytes into, std::vector<OwnedFd>& descriptors, bool may_end) {
  while (!into.empty()) {
    const int64_t got = co_await receive_some(into, descriptors);
    if (got == -ECANCELED || (may_end && (got == 0 || got == -ECONNRESET))) co_return false;
    if (got < 0) fail_errno(static_cast<int>(-got), "the socket of the front end");
    if (got == 0) fail(ErrorKind::kIo, "the front end went away in the middle of a message");
    into = into.subspan(static_cast<size_t>(got));
    may_end = false;
  }
  co_return true;
}

io::task<std::optional<Received>> MessageSocket::receive() {
  Received received;
  const Bytes header(reinterpret_cast<std::byte*>(&received.header), kHeaderBytes);
  if (!co_await fill(header, received.descriptors, /*may_end=*/true)) co_return std::nullopt;
  if ((received.header.flags & kVersionMask) != kVersion || (received.header.flags & kReplyFlag) != 0)
    fail(ErrorKind::kInvalidArgument, "what came from the front end is no message (flags {:#x})",
         received.header.flags);
  if (received.header.size > kMostPayloadBytes)
    fail(ErrorKind::kInvalidArgument, "{} with {} bytes, at most {} are taken", name_of(received.message()),
         received.header.size, kMostPayloadBytes);
  received.payload.resize(received.header.size);
  if (!co_await fill(received.payload, received.descriptors, /*may_end=*/false)) co_return std::nullopt;
  co_return received;
}

io::task<void> MessageSocket::reply(uint32_t request, ConstBytes payload, int descriptor) {
  std::vector<std::byte> whole(kHeaderBytes + payload.size());
  const Header header = {
      .request = request, .flags = kVersion | kReplyFlag, .size = static_cast<uint32_t>(payload.size())};
  std::memcpy(whole.data(), &header, kHeaderBytes);
  if (!payload.empty()) std::memcpy(whole.data() + kHeaderBytes, payload.data(), payload.size());

  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  iovec piece = {whole.data(), whole.size()};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &descriptor, sizeof descriptor);
  }
  const io::Deadline deadline = io::Deadline::after_ns(kReplyNs);
  const int64_t sent = co_await io::send_some(socket_.get(), message, &cancel_, deadline);
  if (sent < 0) fail_errno(static_cast<int>(-sent), "cannot answer the front end");
  const ConstBytes rest =
      std::as_const(whole).empty() ? ConstBytes() : ConstBytes(whole).subspan(static_cast<size_t>(sent));
  const int64_t rest_sent = co_await io::send_all(socket_.get(), rest, &cancel_, deadline);
  if (rest_sent < 0) fail_errno(static_cast<int>(-rest_sent), "cannot answer the front end");
}

}  // namespace cofre::vhost
