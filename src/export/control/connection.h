// One client of the control socket: who it is, its requests one after the other, and its limits.
//
// Home lane. A request is a line of at most kMostLineBytes, complete line_ns after its first byte; a client
// that asks nothing for idle_ns is sent away, as is one that does not take its answer in line_ns.
#pragma once

#include <functional>

#include "export/control/request.h"
#include "io/socket.h"

namespace cofre::control {

inline constexpr unsigned kMostConnections = 8;

struct Limits {
  uint64_t idle_ns = 60'000'000'000;
  uint64_t line_ns = 10'000'000'000;
};

// Gives the result of a request. Throws Error.
using Handler = std::function<io::task<Json>(Request request)>;

// Converses until the client is gone, breaks a limit, or `cancel` is requested: what was asked is answered
// first. A client that is neither this process's user nor root gets an answer that says so, and nothing else.
// `handler` outlives it. Does not throw.
io::task<void> converse(int fd, io::Cancel& cancel, const Handler& handler, Limits limits = {});

}  // namespace cofre::control
