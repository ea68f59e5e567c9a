// An NBD server: listeners, connections on all lanes, limits, an orderly end.
//
// Belongs to the home lane, and so do handshakes. In the transmission phase a connection lives on one lane:
// that of its image, or, when that one has more clients than another, the one with the fewest.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "export/exported.h"
#include "export/nbd/budget.h"
#include "export/nbd/listener.h"
#include "export/nbd/transmission.h"
#include "io/lanes.h"
#include "io/sync.h"

namespace cofre::nbd {

class Connection;
class TlsCredentials;

struct ServerSettings {
  uint32_t most_connections = 100;
  uint64_t handshake_ns = 10'000'000'000;
  uint64_t drain_ns = 10'000'000'000;  // at the end, for clients to take their answers
  uint64_t budget_bytes = 2 * kGiB;    // see transmission.h
  TransmissionLimits limits = {};
  std::shared_ptr<const TlsCredentials> tls = nullptr;    // then without it nothing is given
  std::function<void(const std::string&)> log = nullptr;  // any lane
  // The last client that had got an export is gone, and no other connection is there.
  std::function<void()> on_last_client = nullptr;
};

class Server {
 public:
  // The lanes and exports outlive it.
  Server(io::Lanes& lanes, const exporting::ExportTable& exports, ServerSettings settings);
  ~Server();

  // Accepts clients on it from now on.
  void listen(Listener listener);
  const std::vector<std::string>& uris() const noexcept { return uris_; }

  // Ends the connections of the clients of an export that is in no table any more, until it is `gone`: nobody
  // has it. They get the answers to what they asked; who does not take them in time is cut off. Home lane.
  io::task<void> send_away(const exporting::Export* exported, const std::atomic<bool>& gone);
  uint32_t connections() const noexcept { return connections_; }

  // Takes no more clients, finishes what those it has had begun, and closes; who does not take the answers in
  // time is cut off. To be awaited before the server is destroyed, once.
  io::task<void> stop();

  // ---- for its connections; any lane ----
  const exporting::ExportTable& exports() const noexcept { return exports_; }
  const ServerSettings& settings() const noexcept { return settings_; }
  Budget& budget() noexcept { return budget_; }
  bool stopping() const noexcept { return stopping_.load(std::memory_order_acquire); }
  void log(const std::string& line) const {
    if (settings_.log) settings_.log(line);
  }

 private:
  struct Place {  // a listener and who waits there
    Listener listener;
    io::Cancel cancel = {};
  };
  io::task<void> accept_clients(Place& place);
  void begin(int fd);
  io::task<void> serve_client(int fd);
  io::task<void> transmit_on(unsigned lane, Connection& connection);
  unsigned choose_lane(unsigned preferred) const noexcept;
  void note_end(bool was_client);
  // Of one export, or (null) of all.
  io::task<void> for_each_connection(void (Connection::*action)(), const exporting::Export* exported);
  io::task<void> cut_off_late_ones();

  io::Lanes& lanes_;
  const exporting::ExportTable& exports_;
  ServerSettings settings_;
  Budget budget_;
  std::atomic<bool> stopping_ = false;

  std::deque<Place> places_;
  std::vector<std::string> uris_;
  io::TaskGroup accepting_;
  io::TaskGroup serving_;
  io::WaitQueue room_;  // accept loops, while there are as many connections as may be
  uint32_t connections_ = 0;
  std::vector<uint32_t> clients_on_;               // each lane, in the transmission phase
  std::vector<std::vector<Connection*>> on_lane_;  // each lane's own
};

}  // namespace cofre::nbd
