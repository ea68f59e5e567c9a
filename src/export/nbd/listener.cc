#include "export/nbd/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/owned_fd.h"

namespace cofre::nbd {
namespace {

constexpr int kBacklog = 64;
constexpr int kLooks = 10;
constexpr std::chrono::milliseconds kBetweenLooks(20);

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.empty() || path.size() >= sizeof address.sun_path)
    fail(ErrorKind::kInvalidArgument, "'{}': the path of a unix socket has 1 to {} bytes", path,
         sizeof address.sun_path - 1);
  std::memcpy(&address.sun_path[0], path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

int make_socket(int family) {
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) fail_errno(errno, "cannot make a socket");
  return fd;
}

// Whether the file is a socket that nobody listens on.
bool is_stale(const std::string& path, const sockaddr_un& address) {
  struct stat about = {};
  if (::lstat(path.c_str(), &about) != 0 || !S_ISSOCK(about.st_mode)) return false;
  const OwnedFd probe(make_socket(AF_UNIX));
  return ::connect(probe.get(), generic(address), sizeof address) != 0 && errno == ECONNREFUSED;
}

// A process that was killed may hold its socket for a moment longer, for what it had in flight in the kernel.
bool becomes_stale(const std::string& path, const sockaddr_un& address) {
  for (int look = 0; look < kLooks; ++look) {
    if (is_stale(path, address)) return true;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return false;
}

void bind_unix(int fd, const std::string& path, const sockaddr_un& address) {
  if (::bind(fd, generic(address), sizeof address) == 0) return;
  int error = errno;
  if (error == EADDRINUSE && becomes_stale(path, address) && ::unlink(path.c_str()) == 0) {
    if (::bind(fd, generic(address), sizeof address) == 0) return;
    error = errno;
  }
  if (error == EADDRINUSE)
    throw Error(ErrorKind::kExists,
                fmt::format("'{}' is there already: another server listens on it, or it is no socket", path),
                error);
  fail_errno(error, "cannot listen on '{}'", path);
}

std::string numeric_uri(const sockaddr* address, socklen_t length) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(address, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) !=
      0)
    return "nbd://";
  const bool v6 = address->sa_family == AF_INET6;
  return fmt::format("nbd://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

std::string uri_of(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  auto* const pointer = reinterpret_cast<sockaddr*>(&address);
  if (::getsockname(fd, pointer, &length) != 0) return {};
  if (address.ss_family != AF_UNIX) return numeric_uri(pointer, length);
  const auto* const local = reinterpret_cast<const sockaddr_un*>(&address);
  return fmt::format("nbd+unix:///?socket={}", &local->sun_path[0]);
}

// A listening descriptor, or the errno.
std::pair<int, int> listen_at(const addrinfo& address) {
  OwnedFd fd(
      ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address.ai_protocol));
  if (fd.get() < 0) return {-1, errno};
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // Else the wildcard address of IPv6 would take that of IPv4 too.
  if (address.ai_family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (::bind(fd.get(), address.ai_addr, address.ai_addrlen) != 0 || ::listen(fd.get(), kBacklog) != 0)
    return {-1, errno};
  return {fd.release(), 0};
}

}  // namespace

Listener::Listener(Listener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), uri_(std::move(other.uri_)), path_(std::exchange(other.path_, {})) {}

Listener::~Listener() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

Listener Listener::adopt(int fd) {
  int listens = 0;
  socklen_t length = sizeof listens;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 || listens == 0)
    fail(ErrorKind::kInvalidArgument, "descriptor {} is no listening socket", fd);
  const int flags = ::fcntl(fd, F_GETFL);
  ::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return {fd, uri_of(fd), {}};
}

Listener Listener::on_unix(const std::string& path, int mode) {
  const sockaddr_un address = unix_address(path);
  OwnedFd fd(make_socket(AF_UNIX));
  bind_unix(fd.get(), path, address);
  // Nobody can connect before it listens.
  if ((mode >= 0 && ::chmod(path.c_str(), static_cast<mode_t>(mode)) != 0) ||
      ::listen(fd.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    fail_errno(error, "cannot listen on '{}'", path);
  }
  return {fd.release(), "nbd+unix:///?socket=" + path, path};
}

std::vector<Listener> Listener::on_tcp(const std::string& host, const std::string& port) {
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int fault = ::getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found);
  if (fault != 0)
    fail(ErrorKind::kInvalidArgument, "cannot listen on '{}' port '{}': {}", host, port,
         ::gai_strerror(fault));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  std::vector<Listener> listeners;
  int error = 0;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const auto [fd, fault_here] = listen_at(*address);
    if (fd >= 0) {
      listeners.push_back({fd, uri_of(fd), {}});
    } else if (fault_here != EAFNOSUPPORT && fault_here != EADDRNOTAVAIL) {
      error = fault_here;
    }
    if (port == "0" && !listeners.empty()) break;  // two would get two different ones
  }
  if (error != 0 || listeners.empty())
    fail_errno(error != 0 ? error : EADDRNOTAVAIL, "cannot listen on '{}' port {}", host, port);
  return listeners;
}

std::vector<Listener> Listener::on(const std::string& address, int unix_mode) {
  if (address.starts_with("unix:")) {
    std::vector<Listener> one;
    one.push_back(on_unix(address.substr(5), unix_mode));
    return one;
  }
  if (!address.starts_with("tcp:"))
    fail(ErrorKind::kInvalidArgument, "'{}' is no address: give unix:PATH or tcp:ADDRESS:PORT", address);
  const std::string rest = address.substr(4);
  const size_t colon = rest.rfind(':');
  std::string host = colon == std::string::npos ? "" : rest.substr(0, colon);
  const std::string port = colon == std::string::npos ? rest : rest.substr(colon + 1);
  if (host.size() > 1 && host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (port.empty()) fail(ErrorKind::kInvalidArgument, "'{}' names no port: give tcp:ADDRESS:PORT", address);
  return on_tcp(host, port);
}

}  // namespace cofre::nbd
