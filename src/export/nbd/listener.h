// Sockets that wait for clients. System calls that make them block shortly.
#pragma once

#include <string>
#include <vector>

#include "export/nbd/protocol.h"
#include "io/poll.h"

namespace cofre::nbd {

// A listening socket; closed at its end, and the file of a unix socket that it made is removed.
class Listener {
 public:
  // Takes over a descriptor that listens already, as from socket activation. Throws Error kInvalidArgument.
  static Listener adopt(int fd);
  // A file left behind by a server that is no more is replaced; one that somebody listens on is an error
  // (kExists). `mode`: the access rights of the file, -1 for those that the umask gives. Throws Error.
  static Listener on_unix(const std::string& path, int mode = -1);
  // On all addresses of `host` (empty: on all of this machine). Port 0: one that is free. Throws Error.
  static std::vector<Listener> on_tcp(const std::string& host, const std::string& port);
  // "unix:PATH", "tcp:ADDRESS:PORT", "tcp:[ADDRESS]:PORT", "tcp:PORT". Throws Error kInvalidArgument.
  static std::vector<Listener> on(const std::string& address, int unix_mode = -1);

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  int fd() const noexcept { return fd_; }
  // As clients may be told: "nbd+unix:///?socket=PATH", "nbd://127.0.0.1:10809".
  const std::string& uri() const noexcept { return uri_; }

 private:
  Listener(int fd, std::string uri, std::string path)
      : fd_(fd), uri_(std::move(uri)), path_(std::move(path)) {}

  int fd_;
  std::string uri_;
  std::string path_;  // to be removed
};

}  // namespace cofre::nbd
