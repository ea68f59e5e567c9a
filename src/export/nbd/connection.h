// One client, from its greeting to its end. One lane's at a time.
#pragma once

#include <memory>
#include <optional>

#include "export/nbd/channel.h"
#include "export/nbd/negotiated.h"
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

  // Gives the export that the client chose; null: it got none, and the connection is over. Does not throw.
  io::task<std::shared_ptr<const exporting::Export>> shake_hands();
  // After that, perhaps on another lane, number `lane`: until the client is gone. Does not throw.
  io::task<void> transmit(unsigned lane);
  // The export that it transmits for; null before.
  const exporting::Export* exported() const noexcept { return exported_; }

  // Takes no more requests; transmit() ends when those it has are answered.
  void stop() { cancel_.request(); }
  // Gives up on the client.
  void cut_off();

 private:
  io::task<std::optional<Negotiated>> negotiate();
  io::task<void> serve(unsigned lane);
  io::task<std::unique_ptr<Channel>> start_tls(io::Deadline deadline);

  int fd_;
  Server& server_;
  io::Cancel cancel_;
  std::unique_ptr<Channel> channel_;
  std::optional<Negotiated> agreed_;
  const exporting::Export* exported_ = nullptr;
};

}  // namespace cofre::nbd
