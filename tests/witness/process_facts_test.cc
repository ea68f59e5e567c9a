// What is said where tracing is forbidden: what forbids it, and what to do.
#include "witness/process_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/error.h"

namespace cofre::witness {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string refusal(const TraceRights& rights, pid_t pid = getpid(), int errno_value = EPERM) {
  try {
    fail_to_trace(pid, errno_value, rights);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), pid == getpid() && errno_value == EPERM ? ErrorKind::kPermission : error.kind());
    return error.what();
  }
}

TEST(FailToTrace, ByYama) {
  EXPECT_THAT(refusal({.yama_scope = 1}), AllOf(HasSubstr("ptrace_scope is 1"), HasSubstr("-- COMMAND")));
  EXPECT_THAT(refusal({.yama_scope = 2}),
              AllOf(HasSubstr("ptrace_scope is 2"), HasSubstr("be root"), Not(HasSubstr("COMMAND"))));
  for (const bool is_root : {false, true})
    EXPECT_THAT(refusal({.is_root = is_root, .yama_scope = 3}),
                AllOf(HasSubstr("ptrace_scope is 3"), HasSubstr("until the next boot")));
}

TEST(FailToTrace, WithoutRights) {
  EXPECT_THAT(refusal({}), HasSubstr("another user's"));
  EXPECT_THAT(refusal({.is_root = true}), HasSubstr("SYS_PTRACE"));
  EXPECT_THAT(refusal({.is_root = true, .yama_scope = 1}), HasSubstr("SYS_PTRACE"));
}

TEST(FailToTrace, AProcessThatHasEnded) {
  constexpr pid_t kNobody = 0x7ffffff0;  // above every limit of the kernel
  EXPECT_THAT(refusal({}, kNobody), HasSubstr("has ended"));
  EXPECT_THAT(refusal({}, getpid(), ESRCH), HasSubstr("has ended"));
}

TEST(ProcessFacts, OfThisProcess) {
  EXPECT_FALSE(has_ended(getpid()));
  EXPECT_THAT(threads_of(getpid()), ::testing::Contains(getpid()));
  EXPECT_EQ(process_of(getpid()), getpid());
}

}  // namespace
}  // namespace cofre::witness
