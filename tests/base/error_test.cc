#include "base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace cofre {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(Error, CarriesKindErrnoAndSentence) {
  try {
    fail_errno(ENOENT, "cannot open '{}'", "a.qcow2");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
    EXPECT_EQ(error.errno_value(), ENOENT);
    EXPECT_THAT(error.what(), StartsWith("cannot open 'a.qcow2': "));
    EXPECT_THAT(error.what(), HasSubstr("No such file"));
  }
}

TEST(Error, ContextIsPutBeforeTheSentence) {
  const Error inner(ErrorKind::kCorrupt, "L1 table at offset 3", 0);
  const Error outer = inner.with_context("'disk'");
  EXPECT_STREQ(outer.what(), "'disk': L1 table at offset 3");
  EXPECT_EQ(outer.kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(outer.errno_value(), EIO);
}

// A kind that has an errno of its own comes back from it.
TEST(Error, KindsAndErrnosAgree) {
  for (const ErrorKind kind :
       {ErrorKind::kInvalidArgument, ErrorKind::kNotFound, ErrorKind::kExists, ErrorKind::kPermission,
        ErrorKind::kReadOnly, ErrorKind::kLocked, ErrorKind::kIo, ErrorKind::kNoSpace,
        ErrorKind::kUnsupported, ErrorKind::kCancelled, ErrorKind::kLimit})
    EXPECT_EQ(kind_of_errno(Error(kind, "").errno_value()), kind) << static_cast<int>(kind);
  EXPECT_EQ(Error(ErrorKind::kWrongSecret, "").errno_value(), EPERM);
  EXPECT_EQ(kind_of_errno(EDQUOT), ErrorKind::kNoSpace);
  EXPECT_EQ(kind_of_errno(ENXIO), ErrorKind::kIo);
}

}  // namespace
}  // namespace cofre
