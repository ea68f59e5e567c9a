#include "export/nbd/server.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "export/nbd/connection.h"

namespace cofre::nbd {
namespace {

constexpr uint64_t kRetryNs = 100'000'000;
constexpr uint64_t kDrainStepNs = 5'000'000;

// The system has no room for another connection now.
bool is_passing(int64_t result) {
  return result == -EMFILE || result == -ENFILE || result == -ENOBUFS || result == -ENOMEM;
}

}  // namespace

Server::Server(io::Lanes& lanes, const exporting::ExportTable& exports, ServerSettings settings)
    : lanes_(lanes),
      exports_(exports),
      settings_(std::move(settings)),
      budget_(settings_.budget_bytes),
      on_lane_(lanes.count()) {}

Server::~Server() = default;

void Server::listen(Listener listener) {
  uris_.push_back(listener.uri());
  places_.push_back({.listener = std::move(listener)});
  accepting_.spawn(accept_clients(places_.back()));
}

io::task<void> Server::accept_clients(Place& place) {
  while (!stopping()) {
    if (connections_ >= settings_.most_connections) {
      co_await room_.wait();
      continue;
    }
    const int64_t result = co_await io::accept(place.listener.fd(), &place.cancel);
    if (result == -ECANCELED) co_return;
    if (is_passing(result)) {
      log(fmt::format("cannot take a client: {}", std::strerror(static_cast<int>(-result))));
      co_await io::sleep_ns(kRetryNs);
    } else if (result < 0) {
      log(fmt::format("no more clients on {}: {}", place.listener.uri(),
                      std::strerror(static_cast<int>(-result))));
      co_return;
    } else {
      begin(static_cast<int>(result));
    }
  }
}

void Server::begin(int fd) {
  const unsigned lane = next_lane_++ % lanes_.count();
  ++connections_;
  try {
    serving_.spawn_on(lanes_.lane(lane), serve_client(fd, lane));
  } catch (const std::bad_alloc&) {
    --connections_;
    ::close(fd);
  }
}

io::task<void> Server::serve_client(int fd, unsigned lane) {
  bool was_client = false;
  {
    Connection connection(fd, *this);
    std::vector<Connection*>& neighbours = on_lane_[lane];
    neighbours.push_back(&connection);
    // stop() looks for it on this lane, or has been here before.
    if (!stopping()) was_client = co_await connection.run();
    std::erase(neighbours, &connection);
  }
  co_await io::enter(lanes_.home());
  note_end(was_client);
}

void Server::note_end(bool was_client) {
  --connections_;
  room_.wake_all();
  if (was_client && connections_ == 0 && !stopping() && settings_.on_last_client) settings_.on_last_client();
}

io::task<void> Server::for_each_connection(void (Connection::*action)()) {
  for (unsigned lane = 0; lane < lanes_.count(); ++lane) {
    co_await io::enter(lanes_.lane(lane));
    for (Connection* connection : on_lane_[lane]) (connection->*action)();
  }
  co_await io::enter(lanes_.home());
}

io::task<void> Server::cut_off_late_ones() {
  const io::Deadline deadline = io::Deadline::after_ns(settings_.drain_ns);
  while (connections_ > 0 && deadline.left_ns() > 1) co_await io::sleep_ns(kDrainStepNs);
  if (connections_ > 0) co_await for_each_connection(&Connection::cut_off);
}

io::task<void> Server::stop() {
  stopping_.store(true, std::memory_order_release);
  for (Place& place : places_) place.cancel.request();
  room_.wake_all();
  co_await accepting_.join();
  places_.clear();
  co_await for_each_connection(&Connection::stop);
  if (connections_ > 0) co_await cut_off_late_ones();
  co_await serving_.join();
}

}  // namespace cofre::nbd
