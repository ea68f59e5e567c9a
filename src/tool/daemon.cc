#include "tool/daemon.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/owned_fd.h"

namespace cofre::tool {
namespace {

int status_of(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return 1;
  }
  if (WIFEXITED(status)) return WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : 1;
  return 1;
}

}  // namespace

std::optional<int> Background::enter(Background& background) {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail_errno(errno, "cannot make a pipe");
  const pid_t child = ::fork();
  if (child < 0) fail_errno(errno, "cannot fork");
  if (child == 0) {
    ::close(ends[0]);
    background.pipe_ = ends[1];
    return std::nullopt;
  }
  ::close(ends[1]);
  char byte = 0;
  ssize_t got = 0;
  do {
    got = ::read(ends[0], &byte, 1);
  } while (got < 0 && errno == EINTR);
  ::close(ends[0]);
  return got == 1 ? 0 : status_of(child);
}

void Background::ready() {
  if (pipe_ < 0) return;
  ::setsid();
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd <= 2 && nothing >= 0; ++fd) ::dup2(nothing, fd);
  if (nothing > 2) ::close(nothing);
  const int pipe = std::exchange(pipe_, -1);
  [[maybe_unused]] const ssize_t written = ::write(pipe, "r", 1);
  ::close(pipe);
}

PidFile::PidFile(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) {
  if (fd_ < 0) fail_errno(errno, "cannot create '{}'", path_);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  if (::fcntl(fd_, F_SETLK, &lock) != 0) {
    ::close(fd_);
    fail(ErrorKind::kExists, "'{}' is held by another process that runs", path_);
  }
  const std::string text = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd_, 0) != 0 ||
      ::write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    const int error = errno;
    ::unlink(path_.c_str());
    ::close(fd_);
    fail_errno(error, "cannot write '{}'", path_);
  }
}

PidFile::~PidFile() {
  ::unlink(path_.c_str());
  ::close(fd_);
}

// A path, or with '@' before it a name that is in no folder.
void notify_service_manager(const std::string& state) noexcept {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  const size_t length = path != nullptr ? std::strlen(path) : 0;
  if (length < 2 || length >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) return;
  std::memcpy(&address.sun_path[0], path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  const OwnedFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return;
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  [[maybe_unused]] const ssize_t sent = ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                                                 reinterpret_cast<const sockaddr*>(&address), bytes);
}

unsigned take_passed_sockets() {
  const char* const pid = std::getenv("LISTEN_PID");
  const char* const count = std::getenv("LISTEN_FDS");
  unsigned passed = 0;
  if (pid != nullptr && count != nullptr && std::strtol(pid, nullptr, 10) == ::getpid())
    passed = static_cast<unsigned>(std::strtoul(count, nullptr, 10));
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(name);
  return passed;
}

}  // namespace cofre::tool
