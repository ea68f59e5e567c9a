// The metrics of a server, for Prometheus.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "export/nbd/server.h"
#include "export/side_socket.h"

namespace cofre::tool {

// Home lane.
class ServingMetrics {
 public:
  // On `address`: unix:PATH, ADDRESS:PORT or PORT (then of this host alone). Both outlive it. Throws Error.
  ServingMetrics(const std::string& address, int socket_mode, const exporting::ExportTable& exports,
                 const nbd::Server& server);
  // Once, before it is destroyed.
  io::task<void> stop();

 private:
  std::string page() const;

  const exporting::ExportTable& exports_;
  const nbd::Server& server_;
  const double started_;
  std::function<std::string()> page_;
  std::list<exporting::SideSocket> sockets_;
};

}  // namespace cofre::tool
