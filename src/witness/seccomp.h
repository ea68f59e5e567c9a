// Would a seccomp filter let a thread make the system calls that the witness needs of it? A filter that ends
// the process for a call must never see that call. (seccomp(2); the filters' language is classic BPF.)
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace cofre::witness {

struct SystemCall {
  int number = 0;
  std::array<uint64_t, 6> arguments = {};
};

// Why `tid`, which is stopped and traced, must not make these calls: a clause. Nothing when the system would
// carry them out, or refuse them with an errno at worst.
std::optional<std::string> seccomp_objection(pid_t tid, std::span<const SystemCall> calls);

// What a filter returns for a call: SECCOMP_RET_... and its data. SECCOMP_RET_KILL_PROCESS for a program that
// the kernel would not accept.
uint32_t run_seccomp_filter(std::span<const sock_filter> program, const seccomp_data& call);

}  // namespace cofre::witness
