// A system call made by a stopped thread of the traced process, on its behalf.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "witness/ptrace.h"

namespace cofre::witness {

// Where a thread is stopped decides how its registers are put back.
enum class StoppedAt { kInterrupt, kSignal, kExec };

struct RemoteResult {
  std::optional<uint64_t> value = {};  // what the system call gave, a negative errno included
  std::optional<Stop> met = {};        // without a value: how the thread ended or began to end
};

// Lets `tid` execute the two bytes of `syscall` at `instruction`, and puts its registers and signal mask
// back: it is stopped as before, and a system call that the stop interrupted is restarted by the kernel as
// always.
//
// While it runs, a few tens of microseconds, the thread's registers are not its own: the only moment in which
// the death of the witness harms the process.
RemoteResult remote_call(pid_t tid, StoppedAt where, uint64_t instruction, uint64_t number,
                         const std::array<uint64_t, 6>& arguments);

// What remote_call() needs: an address where the process has a `syscall` instruction, executable (in the
// vDSO); 0 when there is none.
uint64_t find_system_call(const ProcessMemory& memory);

}  // namespace cofre::witness
