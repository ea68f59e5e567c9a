// One scraper: GET /metrics, answered and hung up. Home lane.
#pragma once

#include <functional>
#include <string>

#include "io/socket.h"

namespace cofre::metrics {

inline constexpr unsigned kMostConnections = 8;

// Answers one request, which has to come, and whose answer has to be taken, within `within_ns`. `page` gives
// the metrics. Does not throw.
io::task<void> answer_scrape(int fd, io::Cancel& cancel, const std::function<std::string()>& page,
                             uint64_t within_ns = 10'000'000'000);

}  // namespace cofre::metrics
