#include "image/target_file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"

namespace cofre::image {
namespace {

using testing::HasSubstr;
using testing::Not;

class TargetFileTest : public ScratchTest {
 protected:
  static void fill(const TargetFile& target, const std::string& content) {
    std::ofstream(target.working_path(), std::ios::binary) << content;
  }
};

TEST_F(TargetFileTest, AppearsOnlyWhenCommitted) {
  TargetFile target(path("new"));
  fill(target, "content");
  EXPECT_EQ(target.temporary_path(), target.working_path());
  EXPECT_FALSE(std::filesystem::exists(path("new")));
  target.commit(true);
  EXPECT_EQ(read_file("new"), "content");
  EXPECT_EQ(files(), 1U);
}

TEST_F(TargetFileTest, FailureLeavesNothing) {
  {
    const TargetFile target(path("new"));
    fill(target, "half");
  }
  EXPECT_EQ(files(), 0U);
}

TEST_F(TargetFileTest, FailureLeavesAnExistingTargetAsItWas) {
  write_file("old", "precious");
  {
    const TargetFile target(path("old"));
    fill(target, "half");
    EXPECT_EQ(read_file("old"), "precious");
  }
  EXPECT_EQ(read_file("old"), "precious");
  EXPECT_EQ(files(), 1U);
}

TEST_F(TargetFileTest, AnExistingTargetKeepsItsPermissions) {
  write_file("old", "precious");
  ASSERT_EQ(chmod(path("old").c_str(), 0600), 0);
  TargetFile target(path("old"));
  fill(target, "new");
  target.commit(false);
  EXPECT_EQ(read_file("old"), "new");
  struct stat about = {};
  ASSERT_EQ(stat(path("old").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 07777, 0600U);
}

TEST_F(TargetFileTest, ALinkStaysALink) {
  write_file("old", "precious");
  ASSERT_EQ(symlink("old", path("link").c_str()), 0);
  TargetFile target(path("link"));
  fill(target, "new");
  target.commit(false);
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(read_file("old"), "new");
}

TEST_F(TargetFileTest, ATargetInUseIsRefused) {
  const auto user =
      storage::FileDevice::open(write_file("vm", "disk"), {.locks = storage::FileLocks::format(false)});
  EXPECT_THAT(message_of(ErrorKind::kLocked, [&] { TargetFile target(path("vm")); }), HasSubstr(path("vm")));
}

TEST_F(TargetFileTest, FoldersAndEmptyNamesAreRefused) {
  message_of(ErrorKind::kInvalidArgument, [&] { TargetFile target(path("")); });
  message_of(ErrorKind::kInvalidArgument, [&] { TargetFile target(""); });
}

TEST_F(TargetFileTest, SpecialFilesAreWrittenInPlace) {
  const TargetFile target("/dev/null");
  EXPECT_TRUE(target.in_place());
  EXPECT_EQ(target.working_path(), "/dev/null");
  EXPECT_EQ(target.temporary_path(), "");  // a signal must not remove the device
}

TEST_F(TargetFileTest, LongNamesFit) {
  const std::string name(255, 'n');
  TargetFile target(path(name));
  fill(target, "content");
  target.commit(false);
  EXPECT_EQ(read_file(name), "content");
}

TEST_F(TargetFileTest, MessagesNameTheTarget) {
  const TargetFile target(path("new"));
  const Error error(ErrorKind::kNoSpace, "cannot write '" + target.working_path() + "': full", ENOSPC);
  const Error renamed = target.renamed(error);
  EXPECT_EQ(renamed.what(), "cannot write '" + path("new") + "': full");
  EXPECT_EQ(renamed.kind(), ErrorKind::kNoSpace);
}

}  // namespace
}  // namespace cofre::image
