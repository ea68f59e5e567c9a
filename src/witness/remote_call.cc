#include "witness/remote_call.h"

#include <sys/ptrace.h>

#include <algorithm>
#include <vector>

#include "witness/mappings.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kNoSystemCall = ~uint64_t{0};

// One thread, for the length of a call.
class Caller {
 public:
  explicit Caller(pid_t tid) : tid_(tid) {}

  const std::optional<Stop>& met() const noexcept { return met_; }

  // To the next stop at a system call. Interrupts that were asked for before come in between.
  bool run_to_system_call() {
    for (;;) {
      if (!resume_to_system_call(tid_)) return false;
      const auto stop = wait();
      if (!stop) return false;
      if (stop->is_system_call()) return true;
    }
  }

  // To a stop on the thread's way back from the kernel, where the kernel has yet to decide on restarts.
  bool run_to_interrupt() {
    if (!interrupt(tid_) || !resume(tid_, 0)) return false;
    const auto stop = wait();
    return stop && stop->event() == PTRACE_EVENT_STOP;
  }

  std::optional<uint64_t> call(const user_regs_struct& values) {
    if (!set_registers(tid_, values)) return std::nullopt;
    if (!run_to_system_call() || !run_to_system_call()) return std::nullopt;  // in, and out
    const auto after = registers(tid_);
    if (!after || !run_to_interrupt()) return std::nullopt;
    return after->rax;
  }

 private:
  std::optional<Stop> wait() {
    const auto stop = wait_stop(tid_);
    if (!stop || (!stop->ended() && stop->event() != PTRACE_EVENT_EXIT)) return stop;
    met_ = stop;
    return std::nullopt;
  }

  pid_t tid_;
  std::optional<Stop> met_;
};

user_regs_struct with_call(user_regs_struct values, uint64_t instruction, uint64_t number,
                           const std::array<uint64_t, 6>& arguments) {
  values.rip = instruction;
  values.rax = number;
  values.orig_rax = kNoSystemCall;
  values.rdi = arguments[0];
  values.rsi = arguments[1];
  values.rdx = arguments[2];
  values.r10 = arguments[3];
  values.r8 = arguments[4];
  values.r9 = arguments[5];
  return values;
}

}  // namespace

RemoteResult remote_call(pid_t tid, StoppedAt where, uint64_t instruction, uint64_t number,
                         const std::array<uint64_t, 6>& arguments) {
  Caller caller(tid);
  // An exec ends with the exit from its system call.
  if (where == StoppedAt::kExec && (!caller.run_to_system_call() || !caller.run_to_interrupt()))
    return {.met = caller.met()};
  const auto before = registers(tid);
  const auto mask = signal_mask(tid);
  if (!before || !mask || !set_signal_mask(tid, ~uint64_t{0})) return {};
  const auto value = caller.call(with_call(*before, instruction, number, arguments));
  if (!value || !set_registers(tid, *before) || !set_signal_mask(tid, *mask)) return {.met = caller.met()};
  return {.value = value};
}

uint64_t find_system_call(const ProcessMemory& memory) {
  constexpr std::array kSyscall = {std::byte{0x0f}, std::byte{0x05}};
  for (const Mapping& mapping : parse_mappings(memory.mappings())) {
    if (mapping.path != "[vdso]") continue;
    std::vector<std::byte> bytes(mapping.end - mapping.start);
    if (!memory.read(mapping.start, bytes)) continue;
    const auto found = std::ranges::search(bytes, kSyscall);
    if (!found.empty()) return mapping.start + static_cast<uint64_t>(found.begin() - bytes.begin());
  }
  return 0;
}

}  // namespace cofre::witness
