// One client, from its greeting to its end. One lane's.
#pragma once

#include <memory>

#include "export/nbd/channel.h"
#include "io/poll.h"

namespace cofre::nbd {

class Server;

class Connection {
 public:
  // Takes over the descriptor.
  Connection(int fd, Server& server);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // True: the client got an export. Does not throw.
  io::task<bool> run();

  // Takes no more requests; run() ends when those it has are answered.
  void stop() { cancel_.request(); }
  // Gives up on the client.
  void cut_off();

 private:
  io::task<bool> handshake_and_transmission();
  io::task<std::unique_ptr<Channel>> start_tls(io::Deadline deadline);

  int fd_;
  Server& server_;
  io::Cancel cancel_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace cofre::nbd
