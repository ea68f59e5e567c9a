#include "witness/seccomp.h"

#include <linux/audit.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "witness/process_facts.h"

namespace cofre::witness {
namespace {

constexpr uint32_t kNeverAccepted = SECCOMP_RET_KILL_PROCESS;

// One run of a program of classic BPF, as far as seccomp takes it.
class Machine {
 public:
  Machine(std::span<const sock_filter> program, const seccomp_data& call) : program_(program) {
    std::memcpy(data_.data(), &call, sizeof call);
  }

  uint32_t run() {
    // Jumps lead forward only, so this ends.
    while (next_ < program_.size()) {
      const sock_filter& step = program_[next_++];
      if (BPF_CLASS(step.code) == BPF_RET) return BPF_RVAL(step.code) == BPF_A ? a_ : step.k;
      if (!execute(step)) return kNeverAccepted;
    }
    return kNeverAccepted;
  }

 private:
  bool execute(const sock_filter& step) {
    switch (BPF_CLASS(step.code)) {
      case BPF_LD:
        return load(step, a_);
      case BPF_LDX:
        return load(step, x_);
      case BPF_ST:
        return store(step.k, a_);
      case BPF_STX:
        return store(step.k, x_);
      case BPF_ALU:
        return compute(step);
      case BPF_JMP:
        return jump(step);
      case BPF_MISC:
        (BPF_MISCOP(step.code) == BPF_TAX ? x_ : a_) = BPF_MISCOP(step.code) == BPF_TAX ? a_ : x_;
        return true;
      default:
        return false;
    }
  }

  bool load(const sock_filter& step, uint32_t& into) {
    switch (BPF_MODE(step.code)) {
      case BPF_IMM:
        into = step.k;
        return true;
      case BPF_LEN:
        into = sizeof(seccomp_data);
        return true;
      case BPF_MEM:
        if (step.k >= memory_.size()) return false;
        into = memory_[step.k];
        return true;
      case BPF_ABS:
        if (step.k > data_.size() - sizeof into || step.k % sizeof into != 0) return false;
        std::memcpy(&into, data_.data() + step.k, sizeof into);
        return true;
      default:
        return false;
    }
  }

  bool store(uint32_t slot, uint32_t value) {
    if (slot >= memory_.size()) return false;
    memory_[slot] = value;
    return true;
  }

  uint32_t operand(const sock_filter& step) const { return BPF_SRC(step.code) == BPF_X ? x_ : step.k; }

  bool compute(const sock_filter& step) {
    const uint32_t by = operand(step);
    switch (BPF_OP(step.code)) {
      case BPF_ADD:
        a_ += by;
        return true;
      case BPF_SUB:
        a_ -= by;
        return true;
      case BPF_MUL:
        a_ *= by;
        return true;
      case BPF_DIV:
        a_ = by == 0 ? 0 : a_ / by;
        return by != 0;
      case BPF_AND:
        a_ &= by;
        return true;
      case BPF_OR:
        a_ |= by;
        return true;
      case BPF_XOR:
        a_ ^= by;
        return true;
      case BPF_LSH:
        a_ = by < 32 ? a_ << by : 0;
        return by < 32;
      case BPF_RSH:
        a_ = by < 32 ? a_ >> by : 0;
        return by < 32;
      case BPF_NEG:
        a_ = -a_;
        return true;
      default:
        return false;
    }
  }

  bool jump(const sock_filter& step) {
    const uint32_t with = operand(step);
    bool taken = false;
    switch (BPF_OP(step.code)) {
      case BPF_JA:
        next_ += step.k;
        return true;
      case BPF_JEQ:
        taken = a_ == with;
        break;
      case BPF_JGT:
        taken = a_ > with;
        break;
      case BPF_JGE:
        taken = a_ >= with;
        break;
      case BPF_JSET:
        taken = (a_ & with) != 0;
        break;
      default:
        return false;
    }
    next_ += taken ? step.jt : step.jf;
    return true;
  }

  std::span<const sock_filter> program_;
  std::array<std::byte, sizeof(seccomp_data)> data_ = {};
  std::array<uint32_t, BPF_MEMWORDS> memory_ = {};
  size_t next_ = 0;
  uint32_t a_ = 0;
  uint32_t x_ = 0;
};

bool does_no_harm(uint32_t answer) {
  const uint32_t action = answer & SECCOMP_RET_ACTION_FULL;
  return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG || action == SECCOMP_RET_ERRNO;
}

long read_filter(pid_t tid, unsigned long index, sock_filter* into) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): ptrace is variadic
  return ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, into);
}

// All that apply to a thread; nothing when they cannot be read. Every one is asked at a call.
std::optional<std::vector<std::vector<sock_filter>>> filters_of(pid_t tid) {
  std::vector<std::vector<sock_filter>> filters;
  for (;;) {
    const long length = read_filter(tid, filters.size(), nullptr);
    if (length < 0 && errno == ENOENT) return filters;
    if (length < 0) return std::nullopt;
    filters.emplace_back(static_cast<size_t>(length));
    if (read_filter(tid, filters.size() - 1, filters.back().data()) != length) return std::nullopt;
  }
}

seccomp_data data_of(const SystemCall& call) {
  seccomp_data data = {.nr = call.number, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {}};
  for (size_t i = 0; i < call.arguments.size(); ++i) data.args[i] = call.arguments[i];
  return data;
}

// Filters are inherited, and added, never taken away: with as many as the witness has, in a container, they
// are its own.
bool has_the_filters_of_the_witness(pid_t tid) {
  const auto count = seccomp_filters_of(tid);
  return count && count == seccomp_filters_of(::getpid());
}

}  // namespace

uint32_t run_seccomp_filter(std::span<const sock_filter> program, const seccomp_data& call) {
  return Machine(program, call).run();
}

std::optional<std::string> seccomp_objection(pid_t tid, std::span<const SystemCall> calls) {
  const int mode = seccomp_mode_of(tid);
  if (mode == SECCOMP_MODE_DISABLED) return std::nullopt;
  if (mode == SECCOMP_MODE_STRICT) return "the process may make no system calls (seccomp's strict mode)";
  const auto filters = filters_of(tid);
  if (!filters && has_the_filters_of_the_witness(tid)) return std::nullopt;
  if (!filters)
    return "the process has a seccomp filter, which might end it, and which only root can read "
           "(CAP_SYS_ADMIN, "
           "and a witness without a filter of its own)";
  for (const SystemCall& call : calls)
    for (const auto& filter : *filters)
      if (!does_no_harm(run_seccomp_filter(filter, data_of(call))))
        return fmt::format(
            "the process's seccomp filter forbids what it takes (system call {}), and would not just refuse "
            "it",
            call.number);
  return std::nullopt;
}

}  // namespace cofre::witness
