#include "witness/command.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/error.h"

namespace cofre::witness {
namespace {

void close_fd(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

}  // namespace

Command::Command(const std::vector<std::string>& words) : name_(words.at(0)) {
  if (::pipe2(go_, O_CLOEXEC) != 0 || ::pipe2(failure_, O_CLOEXEC) != 0)
    fail_errno(errno, "cannot start '{}'", name_);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ < 0) fail_errno(errno, "cannot start '{}'", name_);
  if (pid_ == 0) run_child(arguments.data());
  close_fd(go_[0]);
  close_fd(failure_[1]);
}

Command::~Command() {
  close_fd(go_[0]);
  close_fd(go_[1]);
  close_fd(failure_[0]);
  close_fd(failure_[1]);
}

// Between fork and exec: the parent may have had threads, so nothing here allocates.
void Command::run_child(char* const* arguments) {
  close_fd(go_[1]);
  char byte = 0;
  while (::read(go_[0], &byte, 1) < 0 && errno == EINTR) {
  }
  if (byte != 0) {
    ::signal(SIGPIPE, SIG_DFL);  // what the tool ignores, the command shall not
    sigset_t child;              // and what the tracer blocks
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_UNBLOCK, &child, nullptr);
    ::execvp(arguments[0], arguments);
    const int why = errno;
    if (::write(failure_[1], &why, sizeof why) < 0) ::raise(SIGKILL);
  }
  ::raise(SIGKILL);
  __builtin_unreachable();
}

void Command::release() {
  const char byte = 1;
  if (::write(go_[1], &byte, 1) != 1) fail_errno(errno, "cannot start '{}'", name_);
}

bool Command::is_running() {
  if (failure_[0] < 0) return true;
  pollfd readable = {.fd = failure_[0], .events = POLLIN, .revents = 0};
  if (::poll(&readable, 1, 0) <= 0) return false;
  int why = 0;
  const ssize_t got = ::read(failure_[0], &why, sizeof why);
  close_fd(failure_[0]);
  if (got != sizeof why) return true;  // closed by the exec
  if (why == ENOENT && name_.contains('/') && ::access(name_.c_str(), F_OK) == 0)
    fail(ErrorKind::kNotFound,
         "'{}' cannot be executed: its interpreter (#! or the dynamic linker) is missing", name_);
  if (why == ENOENT)
    fail(ErrorKind::kNotFound,
         "'{}': no such command: is it in PATH? Its arguments are words of their own, behind it", name_);
  fail_errno(why, "'{}' cannot be executed", name_);
}

}  // namespace cofre::witness
