// What a server counts, in Prometheus's text format (version 0.0.4).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "export/exported.h"

namespace cofre::metrics {

inline constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

struct ServerFacts {
  std::string version;
  double start_time_seconds = 0;  // since the epoch
  uint32_t nbd_connections = 0;   // in the handshake too
};

// Any lane. Exports that nobody counts for are left out.
std::string exposition(const ServerFacts& server,
                       const std::vector<std::shared_ptr<const exporting::Export>>& exports);

// The value of a label between its quotes.
std::string escape_label(std::string_view text);

}  // namespace cofre::metrics
