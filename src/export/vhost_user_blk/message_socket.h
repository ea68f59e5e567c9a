// Whole messages of the vhost-user protocol, with the descriptors that come along. One lane's.
#pragma once

#include <optional>
#include <vector>

#include "base/owned_fd.h"
#include "export/vhost_user_blk/protocol.h"
#include "io/socket.h"

namespace cofre::vhost {

struct Received {
  Header header;
  std::vector<std::byte> payload;
  std::vector<OwnedFd> descriptors;

  Message message() const noexcept { return static_cast<Message>(header.request); }
  bool needs_reply() const noexcept { return (header.flags & kNeedReplyFlag) != 0; }
};

class MessageSocket {
 public:
  // Closes the socket at its end.
  MessageSocket(OwnedFd socket, io::Cancel& cancel) : socket_(std::move(socket)), cancel_(cancel) {}

  // The next message; nothing when the peer is gone between two messages or `cancel` was requested. Throws
  // Error: kIo for a socket that fails or ends within a message, kInvalidArgument for what is no message.
  io::task<std::optional<Received>> receive();
  // A reply with at most one descriptor. Throws Error kIo; kCancelled.
  io::task<void> reply(uint32_t request, ConstBytes payload, int descriptor = -1);

 private:
  io::task<int64_t> receive_some(Bytes into, std::vector<OwnedFd>& descriptors);
  io::task<bool> fill(Bytes into, std::vector<OwnedFd>& descriptors, bool may_end);

  OwnedFd socket_;
  io::Cancel& cancel_;
};

}  // namespace cofre::vhost
