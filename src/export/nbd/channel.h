// A connection as a stream of bytes: the socket itself, or TLS over it. One lane's; one receiver and one
// sender at a time.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <span>

#include "base/bytes.h"
#include "io/socket.h"
#include "io/task.h"

namespace cofre::nbd {

class Channel {
 public:
  Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  virtual ~Channel() = default;

  // At least one byte and at most into.size(); 0: the client sends no more. Negative: -errno (-ETIME past the
  // deadline, -ECANCELED).
  virtual io::task<int64_t> receive(Bytes into, io::Deadline deadline) = 0;
  // The same without waiting: -EAGAIN.
  virtual int64_t receive_now(Bytes into) = 0;
  // All pieces, which it changes as it goes. 0, or -errno.
  virtual io::task<int64_t> send(std::span<iovec> pieces, io::Deadline deadline) = 0;
  // From now on nothing more is received: -ECANCELED.
  virtual void stop_receiving() = 0;
  // Tells the client that nothing follows, where the stream has a way to.
  virtual io::task<void> finish() { co_return; }
  virtual bool is_secure() const noexcept { return false; }
};

// `cancel` ends waits for what the client sends. Both outlive the channel.
std::unique_ptr<Channel> make_socket_channel(int fd, io::Cancel& cancel);

// Exactly into.size() bytes: true. False when the client ended, or the deadline is past.
io::task<bool> receive_exactly(Channel& channel, Bytes into, io::Deadline deadline);
// Receives and forgets.
io::task<bool> skip_bytes(Channel& channel, uint64_t count, io::Deadline deadline);
io::task<bool> send_bytes(Channel& channel, ConstBytes bytes, io::Deadline deadline);

}  // namespace cofre::nbd
