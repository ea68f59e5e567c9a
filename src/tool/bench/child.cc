#include "tool/bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/error.h"
#include "base/owned_fd.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

std::string content_of(int fd) {
  std::string text(static_cast<size_t>(std::max<off_t>(0, lseek(fd, 0, SEEK_END))), '\0');
  size_t at = 0;
  while (at < text.size()) {
    const ssize_t got = pread(fd, text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (got <= 0) break;
    at += static_cast<size_t>(got);
  }
  text.resize(at);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// File descriptors and signals of the child: what this program does to signals is not the child's.
class SpawnSettings {
 public:
  SpawnSettings(const std::string& input_path, int output) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, input_path.c_str(), O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes_);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes_, &defaults);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  pid_t spawn(const ChildCommand& command) const {
    std::string name = command.program == kOwnProgram ? "cofre" : command.program;
    std::vector<std::string> arguments = command.arguments;
    std::vector<char*> pointers = {name.data()};
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    pid_t pid = 0;
    const int error =
        posix_spawnp(&pid, command.program.c_str(), &actions_, &attributes_, pointers.data(), environ);
    if (error != 0) throw_errno(error, fmt::format("cannot run '{}'", command.program));
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

int reap(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Wakes at the child's end, and now and then to look for signals that met another thread.
int wait_for(pid_t pid) {
  constexpr int kLookMilliseconds = 100;
  const OwnedFd child(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  pollfd ended = {.fd = child.get(), .events = POLLIN, .revents = 0};
  while (child.get() >= 0 && ::poll(&ended, 1, kLookMilliseconds) <= 0) {
    if (!interrupted()) continue;
    kill(pid, SIGTERM);
    reap(pid);
    fail(ErrorKind::kCancelled, "interrupted");
  }
  return reap(pid);
}

}  // namespace

ChildResult run_child(const ChildCommand& command) {
  const OwnedFd output(memfd_create("output", MFD_CLOEXEC));
  if (output.get() < 0) fail_errno(errno, "cannot run '{}': no memory for what it says", command.program);
  const auto start = std::chrono::steady_clock::now();
  const pid_t pid = SpawnSettings(command.input_path, output.get()).spawn(command);
  ChildResult result;
  result.status = wait_for(pid);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (interrupted()) fail(ErrorKind::kCancelled, "interrupted");
  result.output = content_of(output.get());
  return result;
}

ChildResult run_child_well(const ChildCommand& command) {
  ChildResult result = run_child(command);
  if (result.status == 0) return result;
  std::string line = command.program;
  for (const std::string& argument : command.arguments) line += " " + argument;
  constexpr size_t kMostShown = 4096;
  const size_t start = result.output.size() - std::min(result.output.size(), kMostShown);
  fail(ErrorKind::kIo, "'{}' failed with status {}: {}", line, result.status, result.output.substr(start));
}

}  // namespace cofre::tool
