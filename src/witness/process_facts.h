// What /proc says of a process before and while it is traced, and why one cannot be.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

namespace cofre::witness {

// The threads of a process; none when it is gone.
std::vector<pid_t> threads_of(pid_t pid);
// The process that a thread belongs to.
std::optional<pid_t> process_of(pid_t tid);

// Gone, or a zombie.
bool has_ended(pid_t pid);
// SECCOMP_MODE_... of a thread, and how many filters it has: nothing when the kernel (before 5.9) does not
// say.
int seccomp_mode_of(pid_t tid);
std::optional<int> seccomp_filters_of(pid_t tid);

// Throws Error when the process is not there, has ended, belongs to the kernel, is traced already, or is not
// an x86-64 program.
void require_traceable(pid_t pid);
// Throws Error when the file that `pid` executes is not an x86-64 program. Says nothing where it cannot be
// read.
void require_x86_64(pid_t pid);

// What decides whether the witness may trace a process that is not protected.
struct TraceRights {
  bool is_root = false;
  int yama_scope = 0;  // kernel.yama.ptrace_scope; 0 where there is no Yama
};
TraceRights trace_rights();
// Throws the Error for what ptrace said: what forbids it, and what to do.
[[noreturn]] void fail_to_trace(pid_t pid, int errno_value, const TraceRights& rights = trace_rights());

}  // namespace cofre::witness
