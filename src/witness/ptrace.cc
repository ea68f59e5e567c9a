#include "witness/ptrace.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/error.h"

namespace cofre::witness {
namespace {

// glibc declares ptrace's last arguments as pointers whatever they are.
void* as_pointer(uint64_t value) {
  return reinterpret_cast<void*>(value);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

bool Stop::ended() const noexcept {
  return WIFEXITED(status) || WIFSIGNALED(status);
}

bool Stop::is_group_stop() const noexcept {
  return event() == PTRACE_EVENT_STOP &&
         (signal() == SIGSTOP || signal() == SIGTSTP || signal() == SIGTTIN || signal() == SIGTTOU);
}

int seize(pid_t tid) noexcept {
  constexpr uint64_t kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                                PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT;
  return ptrace(PTRACE_SEIZE, tid, nullptr, as_pointer(kOptions)) == 0 ? 0 : errno;
}

bool interrupt(pid_t tid) noexcept {
  return ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) == 0;
}

bool resume(pid_t tid, int signal) noexcept {
  return ptrace(PTRACE_CONT, tid, nullptr, as_pointer(static_cast<uint64_t>(signal))) == 0;
}

bool resume_to_system_call(pid_t tid) noexcept {
  return ptrace(PTRACE_SYSCALL, tid, nullptr, nullptr) == 0;
}

bool listen(pid_t tid) noexcept {
  return ptrace(PTRACE_LISTEN, tid, nullptr, nullptr) == 0;
}

bool detach(pid_t tid, int signal) noexcept {
  return ptrace(PTRACE_DETACH, tid, nullptr, as_pointer(static_cast<uint64_t>(signal))) == 0;
}

std::optional<pid_t> event_thread(pid_t tid) noexcept {
  unsigned long message = 0;
  if (ptrace(PTRACE_GETEVENTMSG, tid, nullptr, &message) != 0) return std::nullopt;
  return static_cast<pid_t>(message);
}

std::optional<user_regs_struct> registers(pid_t tid) noexcept {
  user_regs_struct values = {};
  if (ptrace(PTRACE_GETREGS, tid, nullptr, &values) != 0) return std::nullopt;
  return values;
}

bool set_registers(pid_t tid, const user_regs_struct& values) noexcept {
  user_regs_struct copy = values;
  return ptrace(PTRACE_SETREGS, tid, nullptr, &copy) == 0;
}

std::optional<siginfo_t> signal_information(pid_t tid) noexcept {
  siginfo_t information = {};
  if (ptrace(PTRACE_GETSIGINFO, tid, nullptr, &information) != 0) return std::nullopt;
  return information;
}

std::optional<Stop> poll_stop(pid_t tid) noexcept {
  int status = 0;
  if (waitpid(tid, &status, __WALL | WNOHANG) != tid) return std::nullopt;
  return Stop{status};
}

std::optional<Stop> wait_stop(pid_t tid) noexcept {
  int status = 0;
  pid_t found = -1;
  do {
    found = waitpid(tid, &status, __WALL);
  } while (found < 0 && errno == EINTR);
  if (found != tid) return std::nullopt;
  return Stop{status};
}

ProcessMemory::ProcessMemory(pid_t pid) {
  const std::string folder = fmt::format("/proc/{}/", pid);
  memory_fd_ = ::open((folder + "mem").c_str(), O_RDWR | O_CLOEXEC);
  if (memory_fd_ < 0) fail_errno(errno, "process {}: its memory cannot be opened ({}mem)", pid, folder);
  mappings_fd_ = ::open((folder + "maps").c_str(), O_RDONLY | O_CLOEXEC);
  if (mappings_fd_ < 0) {
    const int why = errno;
    ::close(memory_fd_);
    fail_errno(why, "process {}: what it has mapped cannot be read ({}maps)", pid, folder);
  }
}

ProcessMemory::~ProcessMemory() {
  ::close(memory_fd_);
  ::close(mappings_fd_);
}

bool ProcessMemory::read(uint64_t address, Bytes into) const noexcept {
  while (!into.empty()) {
    const ssize_t got = ::pread(memory_fd_, into.data(), into.size(), static_cast<off_t>(address));
    if (got <= 0) return false;
    address += static_cast<uint64_t>(got);
    into = into.subspan(static_cast<size_t>(got));
  }
  return true;
}

bool ProcessMemory::write(uint64_t address, ConstBytes bytes) const noexcept {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(memory_fd_, bytes.data(), bytes.size(), static_cast<off_t>(address));
    if (put <= 0) return false;
    address += static_cast<uint64_t>(put);
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return true;
}

std::string ProcessMemory::mappings() const {
  std::string text;
  std::array<char, 16384> piece;
  if (::lseek(mappings_fd_, 0, SEEK_SET) != 0) return text;
  for (ssize_t got = 0; (got = ::read(mappings_fd_, piece.data(), piece.size())) > 0;)
    text.append(piece.data(), static_cast<size_t>(got));
  return text;
}

}  // namespace cofre::witness
