// Memory that a stopped thread of the traced process maps on its behalf, for slots and flags.
//
// The thread executes a stub that is written where nothing of the program lies: behind the end of a library's
// code, in the rest of its last page. The stub makes the two system calls, puts the registers back from
// constants in itself, and jumps to where the thread was. So whenever the witness dies, the thread goes on as
// if nothing had been. The stub uses no stack, and changes no flags.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "witness/ptrace.h"
#include "witness/seccomp.h"

namespace cofre::witness {

// Where a thread is stopped.
enum class StoppedAt { kInterrupt, kSignal, kExec };

// Pages at `start`: first those to read and execute, then those to read and write.
struct RemoteMemory {
  uint64_t start = 0;
  uint64_t code_bytes = 0;
  uint64_t flags_bytes = 0;
};

struct RemoteResult {
  bool mapped = false;
  int errno_value = 0;           // what the system said when it refused
  std::optional<Stop> met = {};  // what came in between: the thread ended, or a signal waits to be handled
};

// How long a stub is.
extern const size_t kStubBytes;

// The system calls of a stub.
std::array<SystemCall, 2> stub_calls(const RemoteMemory& wanted);
// The stub that maps `wanted` for a thread with these registers.
std::vector<std::byte> make_stub(const RemoteMemory& wanted, const user_regs_struct& registers);

// Lets `tid` map `wanted`, with the stub at `stub`. Afterwards it is stopped as before: a system call that
// the stop interrupted is restarted by the kernel as always.
RemoteResult remote_map(pid_t tid, StoppedAt where, const ProcessMemory& memory, uint64_t stub,
                        const RemoteMemory& wanted);

}  // namespace cofre::witness
