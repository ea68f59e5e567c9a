// The library as a caller uses it, on the program of forms.S; and the stub by which a thread maps memory.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/error.h"
#include "witness/instruction.h"
#include "witness/remote_map.h"
#include "witness/witness.h"

namespace cofre::witness {
namespace {

// Where nothing may be traced, the first test says why and the others have nothing to say.
bool may_trace() {
  try {
    watch({.command = {"/bin/true"}});
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kPermission) << error.what();
    return false;
  }
}

TEST(Library, WatchesACommand) {
  if (!may_trace()) return;
  const Report report = watch({.command = {WITNESS_TARGET, "exit", "5"}});
  ASSERT_TRUE(report.end);
  EXPECT_EQ(report.end->exit_code, 5);
  ASSERT_FALSE(report.modules.empty());
  EXPECT_EQ(report.modules[0].sites.hit, 0u);
  EXPECT_EQ(report.modules[0].watched, report.modules[0].sites.present);
}

TEST(Library, SamplesByStoppingThreadsWherePerfIsForbidden) {
  if (!may_trace()) return;
  const Report report = sample({.command = {WITNESS_TARGET, "chain", "2", "1200"}, .use_perf = false});
  ASSERT_TRUE(report.sampled && report.end);
  EXPECT_EQ(report.end->exit_code, 0);
  EXPECT_EQ(report.sampled->method, "ptrace");
  EXPECT_GT(report.sampled->samples, 0u);
  ASSERT_FALSE(report.sampled->routines.empty());
  EXPECT_EQ(report.sampled->routines[0].function, "chain");
  EXPECT_TRUE(report.sampled->routines[0].has_aes_instructions);
}

TEST(Library, NothingToDoIsRefused) {
  EXPECT_THROW(watch({}), Error);
  EXPECT_THROW(watch({.command = {"no-such-command-anywhere"}}), Error);
}

// The last instruction of a stub is jmp *0(%rip); behind it stands where it leads.
uint64_t destination_of(const std::vector<std::byte>& stub) {
  return load_le<uint64_t>(stub.data() + stub.size() - 8);
}

// What the stub leaves in rax, the first of nine registers that it sets at its end.
uint64_t result_of(const std::vector<std::byte>& stub) {
  constexpr size_t kSet = 10;
  return load_le<uint64_t>(stub.data() + stub.size() - 8 - 6 - 9 * kSet + 2);
}

TEST(Stub, ConsistsOfInstructionsAndTwoSystemCalls) {
  const std::vector<std::byte> stub = make_stub({0x10000, 0x1000, 0x2000}, {});
  EXPECT_EQ(stub.size(), kStubBytes);
  size_t at = 0;
  unsigned system_calls = 0;
  std::optional<Instruction> last;
  while (!last || last->flow != Flow::kIndirectJump) {
    last = decode(ConstBytes(stub).subspan(at), at);
    ASSERT_TRUE(last) << at;
    system_calls += stub[at] == std::byte{0x0f} && stub[at + 1] == std::byte{0x05} ? 1 : 0;
    at += last->length;
  }
  EXPECT_EQ(system_calls, 2u);
  EXPECT_EQ(at + 8, stub.size());
}

TEST(Stub, GoesBackToWhereTheThreadWas) {
  user_regs_struct registers = {};
  registers.rip = 0x401000;
  registers.rax = 77;
  registers.orig_rax = ~uint64_t{0};  // not in a system call
  EXPECT_EQ(destination_of(make_stub({}, registers)), 0x401000u);
  EXPECT_EQ(result_of(make_stub({}, registers)), 77u);
}

TEST(Stub, RestartsASystemCallThatTheStopInterrupted) {
  constexpr uint64_t kErestartsys = 512;
  constexpr uint64_t kErestartBlock = 516;
  user_regs_struct registers = {};
  registers.rip = 0x401002;
  registers.orig_rax = SYS_read;
  registers.rax = -kErestartsys;
  EXPECT_EQ(destination_of(make_stub({}, registers)), 0x401000u);
  EXPECT_EQ(result_of(make_stub({}, registers)), uint64_t{SYS_read});
  registers.rax = -kErestartBlock;
  EXPECT_EQ(destination_of(make_stub({}, registers)), 0x401000u);
  EXPECT_EQ(result_of(make_stub({}, registers)), uint64_t{SYS_restart_syscall});
  registers.rax = static_cast<uint64_t>(-EINTR);
  EXPECT_EQ(destination_of(make_stub({}, registers)), 0x401002u);
  EXPECT_EQ(result_of(make_stub({}, registers)), static_cast<uint64_t>(-EINTR));
}

}  // namespace
}  // namespace cofre::witness
