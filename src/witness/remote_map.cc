#include "witness/remote_map.h"

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <cerrno>

namespace cofre::witness {
namespace {

constexpr uint64_t kNoSystemCall = ~uint64_t{0};

class Assembler {
 public:
  template <typename... Bytes>
  void emit(Bytes... bytes) {
    (code_.push_back(static_cast<std::byte>(bytes)), ...);
  }
  template <std::unsigned_integral T>
  void emit_value(T value) {
    code_.resize(code_.size() + sizeof value);
    store_le(code_.data() + code_.size() - sizeof value, value);
  }
  // mov $value, a register of 64 bits: rax is 0, r15 is 15.
  void set(unsigned number, uint64_t value) {
    emit(0x48 | number >> 3, 0xb8 | (number & 7));
    emit_value(value);
  }
  std::vector<std::byte> take() { return std::move(code_); }

 private:
  std::vector<std::byte> code_;
};

enum Register : unsigned {
  kRax = 0,
  kRcx = 1,
  kRdx = 2,
  kRsi = 6,
  kRdi = 7,
  kR8 = 8,
  kR9 = 9,
  kR10 = 10,
  kR11 = 11
};

SystemCall map_call(uint64_t address, uint64_t length, int protection) {
  constexpr uint64_t kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  constexpr uint64_t kNoFile = ~uint64_t{0};
  return {SYS_mmap, {address, length, static_cast<uint64_t>(protection), kFlags, kNoFile, 0}};
}

void emit_call(Assembler& code, const SystemCall& call) {
  constexpr Register kArguments[] = {kRdi, kRsi, kRdx, kR10, kR8, kR9};
  code.set(kRax, static_cast<uint64_t>(call.number));
  for (size_t i = 0; i < call.arguments.size(); ++i) code.set(kArguments[i], call.arguments[i]);
  code.emit(0x0f, 0x05);
}

// What the kernel does at a restart (arch/x86, the signal path), for the case that nobody is there to let it.
struct Continuation {
  uint64_t rip;
  uint64_t rax;
};

Continuation continuation_of(const user_regs_struct& registers) {
  constexpr int64_t kErestartsys = 512;  // in the kernel only
  constexpr int64_t kErestartNoHandler = 514;
  constexpr int64_t kErestartBlock = 516;
  constexpr uint64_t kSyscallBytes = 2;
  const auto result = static_cast<int64_t>(registers.rax);
  if (static_cast<int64_t>(registers.orig_rax) < 0) return {registers.rip, registers.rax};
  if (result <= -kErestartsys && result >= -kErestartNoHandler)
    return {registers.rip - kSyscallBytes, registers.orig_rax};
  if (result == -kErestartBlock) return {registers.rip - kSyscallBytes, SYS_restart_syscall};
  return {registers.rip, registers.rax};
}

// One thread, while it maps.
class Mapper {
 public:
  explicit Mapper(pid_t tid) : tid_(tid) {}

  const std::optional<Stop>& met() const noexcept { return met_; }

  // To the next entry into a system call or exit from one. Interrupts that were asked for before come in
  // between.
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
    return wait().has_value();
  }

  // Through a system call of the stub. Its result.
  std::optional<uint64_t> run_through_system_call() {
    if (!run_to_system_call() || !run_to_system_call()) return std::nullopt;
    const auto after = registers(tid_);
    return after ? std::optional<uint64_t>(after->rax) : std::nullopt;
  }

 private:
  // Only stops at system calls and by interrupts are expected.
  std::optional<Stop> wait() {
    const auto stop = wait_stop(tid_);
    if (stop && !stop->ended() && (stop->is_system_call() || is_plain_interrupt(*stop))) return stop;
    met_ = stop;
    return std::nullopt;
  }
  static bool is_plain_interrupt(const Stop& stop) {
    return stop.event() == PTRACE_EVENT_STOP && !stop.is_group_stop();
  }

  pid_t tid_;
  std::optional<Stop> met_;
};

constexpr uint64_t kLastErrno = 4095;

int errno_of(uint64_t result) {
  return result >= ~kLastErrno + 1 ? static_cast<int>(-result) : 0;
}

// Both calls of the stub. The errno of the first that fails.
std::optional<int> run_stub(Mapper& mapper) {
  for (int i = 0; i < 2; ++i) {
    const auto result = mapper.run_through_system_call();
    if (!result) return std::nullopt;
    if (errno_of(*result) != 0) return errno_of(*result);
  }
  return 0;
}

}  // namespace

const size_t kStubBytes = make_stub({}, {}).size();

std::array<SystemCall, 2> stub_calls(const RemoteMemory& wanted) {
  return {map_call(wanted.start, wanted.code_bytes, PROT_READ | PROT_EXEC),
          map_call(wanted.start + wanted.code_bytes, wanted.flags_bytes, PROT_READ | PROT_WRITE)};
}

std::vector<std::byte> make_stub(const RemoteMemory& wanted, const user_regs_struct& registers) {
  const Continuation next = continuation_of(registers);
  Assembler code;
  for (const SystemCall& call : stub_calls(wanted)) emit_call(code, call);
  code.set(kRax, next.rax);
  code.set(kRcx, registers.rcx);
  code.set(kRdx, registers.rdx);
  code.set(kRsi, registers.rsi);
  code.set(kRdi, registers.rdi);
  code.set(kR8, registers.r8);
  code.set(kR9, registers.r9);
  code.set(kR10, registers.r10);
  code.set(kR11, registers.r11);
  code.emit(0xff, 0x25, 0, 0, 0, 0);  // jmp *0(%rip)
  code.emit_value(next.rip);
  return code.take();
}

RemoteResult remote_map(pid_t tid, StoppedAt where, const ProcessMemory& memory, uint64_t stub,
                        const RemoteMemory& wanted) {
  Mapper mapper(tid);
  // An exec ends with the exit from its system call.
  if (where == StoppedAt::kExec && (!mapper.run_to_system_call() || !mapper.run_to_interrupt()))
    return {.met = mapper.met()};
  const auto before = registers(tid);
  if (!before) return {};
  const std::vector<std::byte> code = make_stub(wanted, *before);
  std::vector<std::byte> original(code.size());
  if (!memory.read(stub, original) || !memory.write(stub, code)) return {.errno_value = EACCES};
  user_regs_struct values = *before;
  values.rip = stub;
  values.orig_rax = kNoSystemCall;
  if (!set_registers(tid, values)) return {};
  const auto failure = run_stub(mapper);
  if (failure) mapper.run_to_interrupt();
  set_registers(tid, *before);  // a signal that came in between is delivered where the thread was, too
  memory.write(stub, original);
  return {.mapped = failure == 0 && !mapper.met(), .errno_value = failure.value_or(0), .met = mapper.met()};
}

}  // namespace cofre::witness
