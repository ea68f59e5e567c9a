// The interpreter of seccomp filters, held against the kernel's.
#include "witness/seccomp.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <random>
#include <vector>

namespace cofre::witness {
namespace {

using Program = std::vector<sock_filter>;

constexpr int kCall = SYS_getpriority;  // nothing that a child needs for anything
constexpr SystemCall kExample = {kCall, {0x1122334455667788, 7, 0xffffffff00000000, 1, 2, 3}};

seccomp_data data_of_example() {
  seccomp_data data = {.nr = kCall, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {}};
  for (size_t i = 0; i < kExample.arguments.size(); ++i) data.args[i] = kExample.arguments[i];
  return data;
}

// Other calls are allowed; what `program` leaves in A becomes an errno in 1 to 127.
Program as_filter(Program program) {
  Program filter = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kCall, 1, 0),
                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  filter.insert(filter.end(), program.begin(), program.end());
  for (const sock_filter& step :
       Program{BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x7e), BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1),
               BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO), BPF_STMT(BPF_RET | BPF_A, 0)})
    filter.push_back(step);
  return filter;
}

// The errno by which the kernel refuses the call, in a child under the filter; -1: it does not take the
// filter.
int errno_of_kernel(Program filter) {
  const pid_t child = fork();
  if (child == 0) {
    const sock_fprog all = {.len = static_cast<unsigned short>(filter.size()), .filter = filter.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all, 0, 0) != 0)
      _exit(255);
    const auto& a = kExample.arguments;
    const long result = syscall(kCall, a[0], a[1], a[2], a[3], a[4], a[5]);
    _exit(result == -1 ? errno : 254);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  return WEXITSTATUS(status) == 255 ? -1 : WEXITSTATUS(status);
}

void expect_as_kernel(const Program& program, const std::string& what) {
  const Program filter = as_filter(program);
  const int expected = errno_of_kernel(filter);
  ASSERT_NE(expected, -1) << what << ": the kernel takes no such filter";
  EXPECT_EQ(run_seccomp_filter(filter, data_of_example()),
            SECCOMP_RET_ERRNO | static_cast<uint32_t>(expected))
      << what;
}

sock_filter load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}

Program random_program(std::mt19937& random) {
  constexpr uint16_t kOperations[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_AND, BPF_OR, BPF_XOR};
  constexpr uint16_t kJumps[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
  const auto any = [&](size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); };
  Program program = {BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_MISC | BPF_TAX, 0)};
  for (unsigned i = 0; i < 20; ++i) {
    const auto source = static_cast<uint16_t>(any(2) == 0 ? BPF_K : BPF_X);
    switch (any(7)) {
      case 0:
        program.push_back(load(offsetof(seccomp_data, args) + 4 * any(12)));  // not where it is called from
        break;
      case 1:
        program.push_back(BPF_STMT(static_cast<uint16_t>(BPF_ALU | kOperations[any(6)] | source),
                                   static_cast<uint32_t>(random())));
        break;
      case 2:
        program.push_back(BPF_STMT(static_cast<uint16_t>(BPF_ALU | (any(2) == 0 ? BPF_LSH : BPF_RSH) | BPF_K),
                                   static_cast<uint32_t>(any(32))));
        break;
      case 3:
        program.push_back(BPF_STMT(BPF_ALU | BPF_NEG, 0));
        break;
      case 4:  // over the next instruction or not
        program.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | kJumps[any(4)] | source),
                                   static_cast<uint32_t>(random()), static_cast<uint8_t>(any(2)),
                                   static_cast<uint8_t>(any(2))));
        program.push_back(BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 0x15));
        break;
      case 5:
        program.push_back(
            BPF_STMT(static_cast<uint16_t>(any(2) == 0 ? BPF_LD | BPF_MEM : BPF_LDX | BPF_MEM), 3));
        break;
      default:
        program.push_back(any(2) == 0 ? sock_filter(BPF_STMT(BPF_MISC | BPF_TAX, 0))
                                      : sock_filter(BPF_STMT(BPF_MISC | BPF_TXA, 0)));
    }
  }
  return program;
}

TEST(SeccompFilter, AnswersAsTheKernelDoes) {
  const char* const given = std::getenv("COFRE_TEST_SEED");
  const auto seed =
      given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device()();
  std::mt19937 random(seed);
  for (unsigned i = 0; i < 200; ++i) {
    expect_as_kernel(random_program(random), fmt::format("COFRE_TEST_SEED={}, program {}", seed, i));
    if (HasFatalFailure()) return;
  }
}

TEST(SeccompFilter, WhatTheKernelWouldNotTakeEndsTheProcess) {
  const seccomp_data data = data_of_example();
  EXPECT_EQ(run_seccomp_filter({}, data), SECCOMP_RET_KILL_PROCESS);
  for (const sock_filter& step :
       {load(sizeof(seccomp_data)), load(2), sock_filter(BPF_STMT(BPF_ST, BPF_MEMWORDS)),
        sock_filter(BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0)),
        sock_filter(BPF_JUMP(BPF_JMP | BPF_JA, 99, 0, 0)),
        sock_filter(BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0))})
    EXPECT_EQ(run_seccomp_filter(Program{step, BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}, data),
              SECCOMP_RET_KILL_PROCESS)
        << step.code;
}

// Whether there are none, or those of a container.
TEST(SeccompFilter, WhatTheWitnessLivesWithIsNoObjection) {
  EXPECT_FALSE(seccomp_objection(getpid(), std::array{kExample}));
}

}  // namespace
}  // namespace cofre::witness
