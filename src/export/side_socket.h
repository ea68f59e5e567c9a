// A socket beside the images' own, for few and small conversations: the control socket, the metrics.
//
// Home lane. A conversation that the peer draws out holds one of a few places and nothing else; who comes
// when all are taken waits in the queue of the socket.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "export/nbd/listener.h"
#include "io/socket.h"
#include "io/sync.h"

namespace cofre::exporting {

class SideSocket {
 public:
  // What is said with one client: it neither throws nor closes the descriptor, and ends soon when the cancel
  // is requested.
  using Conversation = std::function<io::task<void>(int fd, io::Cancel& cancel)>;

  SideSocket(nbd::Listener listener, unsigned most_connections, Conversation conversation);

  const std::string& uri() const noexcept { return listener_.uri(); }
  // Once, before it is destroyed. What is being answered is answered.
  io::task<void> stop();

 private:
  io::task<void> accept_clients();
  io::task<void> converse(int fd);

  nbd::Listener listener_;
  const unsigned most_connections_;
  Conversation conversation_;
  io::Cancel cancel_;
  std::list<io::Cancel> conversations_;  // one for each that is held
  io::WaitQueue room_;
  io::TaskGroup running_;
};

}  // namespace cofre::exporting
