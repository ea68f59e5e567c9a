// ptrace(2) as this floor uses it: threads are seized, never attached with a signal. Functions that give a
// bool give false when the thread is gone. One thread of the witness is the tracer and makes all calls.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <csignal>
#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"

namespace cofre::witness {

// What waitpid says of a thread that stopped or ended.
struct Stop {
  int status = 0;

  bool ended() const noexcept;
  // PTRACE_EVENT_..., 0 for none.
  int event() const noexcept { return status >> 16; }
  int signal() const noexcept { return (status >> 8) & 0xff; }
  bool is_system_call() const noexcept { return event() == 0 && signal() == (SIGTRAP | 0x80); }
  // The whole process is stopped, as by Ctrl-Z.
  bool is_group_stop() const noexcept;
};

// Seizes a thread: it goes on running, and its new threads and children are traced from their start. Gives
// 0 or the errno.
int seize(pid_t tid) noexcept;
bool interrupt(pid_t tid) noexcept;
bool resume(pid_t tid, int signal) noexcept;
// To the next entry into or exit from a system call.
bool resume_to_system_call(pid_t tid) noexcept;
// Lets a group-stopped thread stay stopped.
bool listen(pid_t tid) noexcept;
bool detach(pid_t tid, int signal) noexcept;
// The new thread's number after a clone, the old one's after an exec.
std::optional<pid_t> event_thread(pid_t tid) noexcept;
std::optional<user_regs_struct> registers(pid_t tid) noexcept;
bool set_registers(pid_t tid, const user_regs_struct& values) noexcept;
std::optional<siginfo_t> signal_information(pid_t tid) noexcept;

// The next stop of this thread, or nothing when there is none yet.
std::optional<Stop> poll_stop(pid_t tid) noexcept;
// Waits for it; nothing when the thread is gone without a word.
std::optional<Stop> wait_stop(pid_t tid) noexcept;

// The memory of a process. The file descriptors are opened once, when the process may still be read: a
// program that forbids that later (PR_SET_DUMPABLE) stays readable.
class ProcessMemory {
 public:
  // Throws Error.
  explicit ProcessMemory(pid_t pid);
  ~ProcessMemory();
  ProcessMemory(const ProcessMemory&) = delete;
  ProcessMemory& operator=(const ProcessMemory&) = delete;

  bool read(uint64_t address, Bytes into) const noexcept;
  // Read-only pages too: the process gets its own copy of them.
  bool write(uint64_t address, ConstBytes bytes) const noexcept;
  // The text of /proc/PID/maps; empty when the process is gone.
  std::string mappings() const;

 private:
  int memory_fd_ = -1;
  int mappings_fd_ = -1;
};

}  // namespace cofre::witness
