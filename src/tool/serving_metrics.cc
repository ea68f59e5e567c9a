#include "tool/serving_metrics.h"

#include <fmt/format.h>

#include <chrono>

#include "export/metrics/endpoint.h"
#include "export/metrics/exposition.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

// What is counted is nobody's business by default.
std::vector<nbd::Listener> listen_on(const std::string& address, int socket_mode) {
  if (address.starts_with("unix:")) return nbd::Listener::on(address, socket_mode);
  const bool only_port = address.find(':') == std::string::npos;
  return nbd::Listener::on(only_port ? "tcp:localhost:" + address : "tcp:" + address);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

ServingMetrics::ServingMetrics(const std::string& address, int socket_mode,
                               const exporting::ExportTable& exports, const nbd::Server& server)
    : exports_(exports), server_(server), started_(seconds_now()), page_([this] { return page(); }) {
  for (nbd::Listener& listener : listen_on(address, socket_mode))
    sockets_.emplace_back(std::move(listener), metrics::kMostConnections, [this](int fd, io::Cancel& cancel) {
      return metrics::answer_scrape(fd, cancel, page_);
    });
}

std::string ServingMetrics::page() const {
  return metrics::exposition({.version = std::string(kVersion),
                              .start_time_seconds = started_,
                              .nbd_connections = server_.connections()},
                             exports_.all());
}

io::task<void> ServingMetrics::stop() {
  for (exporting::SideSocket& socket : sockets_) co_await socket.stop();
}

}  // namespace cofre::tool
