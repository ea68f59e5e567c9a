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
      clients_on_(lanes.count()),
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
  ++connections_;
  try {
    serving_.spawn(serve_client(fd));
  } catch (const std::bad_alloc&) {
    --connections_;
    ::close(fd);
  }
}

unsigned Server::choose_lane(unsigned preferred) const noexcept {
  unsigned chosen = preferred < clients_on_.size() ? preferred : 0;
  for (unsigned lane = 0; lane < clients_on_.size(); ++lane)
    if (clients_on_[lane] < clients_on_[chosen]) chosen = lane;
  return chosen;
}

// stop() looks for connections on the lanes where they are, or has been there before.
io::task<void> Server::transmit_on(unsigned lane, Connection& connection) {
  ++clients_on_[lane];
  co_await io::enter(lanes_.lane(lane));
  on_lane_[lane].push_back(&connection);
  if (!stopping()) co_await connection.transmit(lane);
  std::erase(on_lane_[lane], &connection);
  co_await io::enter(lanes_.home());
  --clients_on_[lane];
}

io::task<void> Server::serve_client(int fd) {
  std::shared_ptr<const exporting::Export> chosen;
  {
    Connection connection(fd, *this);
    on_lane_[0].push_back(&connection);
    if (!stopping()) chosen = co_await connection.shake_hands();
    std::erase(on_lane_[0], &connection);
    if (chosen) {
      const std::shared_ptr<exporting::Activity> activity = chosen->activity;
      if (activity) activity->client_came();
      co_await transmit_on(choose_lane(chosen->lane), connection);
      if (activity) activity->client_went();
    }
  }
  note_end(chosen != nullptr);
}

void Server::note_end(bool was_client) {
  --connections_;
  room_.wake_all();
  if (was_client && connections_ == 0 && !stopping() && settings_.on_last_client) settings_.on_last_client();
}

io::task<void> Server::for_each_connection(void (Connection::*action)(), const exporting::Export* exported) {
  for (unsigned lane = 0; lane < lanes_.count(); ++lane) {
    co_await io::enter(lanes_.lane(lane));
    for (Connection* connection : on_lane_[lane])
      if (exported == nullptr || connection->exported() == exported) (connection->*action)();
  }
  co_await io::enter(lanes_.home());
}

io::task<void> Server::cut_off_late_ones() {
  const io::Deadline deadline = io::Deadline::after_ns(settings_.drain_ns);
  while (connections_ > 0 && deadline.left_ns() > 1) co_await io::sleep_ns(kDrainStepNs);
  if (connections_ > 0) co_await for_each_connection(&Connection::cut_off, nullptr);
}

io::task<void> Server::send_away(const exporting::Export* exported, const std::atomic<bool>& gone) {
  const io::Deadline deadline = io::Deadline::after_ns(settings_.drain_ns);
  while (!gone.load(std::memory_order_acquire)) {
    co_await for_each_connection(deadline.left_ns() > 1 ? &Connection::stop : &Connection::cut_off, exported);
    co_await io::sleep_ns(kDrainStepNs);
  }
}

io::task<void> Server::stop() {
  stopping_.store(true, std::memory_order_release);
  for (Place& place : places_) place.cancel.request();
  room_.wake_all();
  co_await accepting_.join();
  places_.clear();
  co_await for_each_connection(&Connection::stop, nullptr);
  if (connections_ > 0) co_await cut_off_late_ones();
  co_await serving_.join();
}

}  // namespace cofre::nbd
