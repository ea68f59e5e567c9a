#include "export/nbd/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "export/nbd/handshake.h"
#include "export/nbd/server.h"
#include "export/nbd/tls.h"
#include "export/nbd/transmission.h"

namespace cofre::nbd {

Connection::Connection(int fd, Server& server)
    : fd_(fd), server_(server), channel_(make_socket_channel(fd, cancel_)) {
  const int on = 1;  // neither is for unix sockets, which refuse them
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

Connection::~Connection() {
  ::close(fd_);
}

void Connection::cut_off() {
  cancel_.request();
  ::shutdown(fd_, SHUT_RDWR);
}

io::task<std::unique_ptr<Channel>> Connection::start_tls(io::Deadline deadline) {
  TlsOutcome outcome =
      co_await accept_tls(*server_.settings().tls, make_socket_channel(fd_, cancel_), deadline);
  if (!outcome.channel) server_.log("TLS: " + outcome.fault);
  co_return std::move(outcome.channel);
}

io::task<std::optional<Negotiated>> Connection::negotiate() {
  HandshakeSettings settings = {
      .exports = &server_.exports(), .start_tls = nullptr, .stopping = [this] { return server_.stopping(); }};
  if (server_.settings().tls)
    settings.start_tls = [this](io::Deadline deadline) { return start_tls(deadline); };
  Handshake handshake(channel_, settings, io::Deadline::after_ns(server_.settings().handshake_ns));
  co_return co_await handshake.run();
}

io::task<std::shared_ptr<const exporting::Export>> Connection::shake_hands() {
  try {
    agreed_ = co_await negotiate();
    if (agreed_) {
      exported_ = agreed_->exported.get();
      co_return agreed_->exported;
    }
  } catch (const std::exception& error) {
    server_.log(fmt::format("a connection ended in its handshake: {}", error.what()));
  }
  co_return nullptr;
}

io::task<void> Connection::serve(unsigned lane) {
  const std::string name = agreed_->exported->name;
  exporting::Activity* const activity = agreed_->exported->activity.get();
  Transmission transmission(
      *channel_, std::move(*agreed_), server_.budget(), server_.settings().limits,
      [this, &name](const Error& error) { server_.log(fmt::format("export '{}': {}", name, error.what())); },
      activity != nullptr ? &activity->lane(lane) : nullptr);
  co_await transmission.run();
  co_await channel_->finish();
}

io::task<void> Connection::transmit(unsigned lane) {
  try {
    co_await serve(lane);
  } catch (const std::exception& error) {
    server_.log(fmt::format("a connection ended: {}", error.what()));
  }
}

}  // namespace cofre::nbd
