// How an AES instruction is watched without a trap: a jump in its place, to code beside it.
//
// Every AES instruction has five bytes or more, and so has room for `jmp rel32`. The jump leads to a slot of
// 32 bytes that notes the hit in a byte of memory, executes the instruction, and jumps back behind it:
//
//     movb $1, flag(%rip)      changes no flags, no register, no stack
//     <the instruction>        a RIP-relative operand is adjusted
//     jmp  <behind the instruction>
//
// A breakpoint (int3) kills the program when nobody traces it any more. This does not: whatever happens to
// the witness, the program computes the same. Nor do threads that meet at one site need care.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "witness/seccomp.h"
#include "witness/sweep.h"

namespace cofre::witness {

inline constexpr size_t kJumpBytes = 5;
inline constexpr size_t kSlotBytes = 32;
inline constexpr size_t kHookBytes = 64;
// Where in a hook its thread stands when the signal that it sends itself arrives: behind the system call.
extern const size_t kHookSignalOffset;

using JumpCode = std::array<std::byte, kJumpBytes>;
using SlotCode = std::array<std::byte, kSlotBytes>;
using HookCode = std::array<std::byte, kHookBytes>;

// `jmp to`, at `from`; nothing when it is out of reach. All addresses are those of the running program.
std::optional<JumpCode> make_jump(uint64_t from, uint64_t to);

// The slot at `slot` for the instruction at `address`, with its flag at `flag`; nothing when something is out
// of reach.
std::optional<SlotCode> make_slot(const AesSite& site, uint64_t address, uint64_t slot, uint64_t flag);

// Where a jump at `from` leads; nothing when the code is no jump.
std::optional<uint64_t> jump_target(const JumpCode& code, uint64_t from);
// Whether `code`, at `slot`, is a slot for the instruction at `address`, wherever its flag is.
bool is_slot_of(const SlotCode& code, uint64_t slot, const AesSite& site, uint64_t address);

// In place of a function that only returns: the thread sends itself SIGURG. A tracer sees the thread stop;
// without one the signal is ignored, as it is by default.
HookCode make_hook();
// The system calls that it makes in a process.
std::array<SystemCall, 3> hook_calls(pid_t pid);

}  // namespace cofre::witness
