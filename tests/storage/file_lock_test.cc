// Image locks: between two devices of this process (locks belong to the open file), and with the real
// qemu-io.
#include "storage/file_lock.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "storage/on_backend.h"

extern char** environ;

namespace cofre::storage {
namespace {

class Locks : public testing::Test {
 protected:
  Locks() { FileDevice::create(path_, {}); }

  std::unique_ptr<FileDevice> open(FileLocks locks, bool read_only = false) {
    return FileDevice::open(path_, {.read_only = read_only, .locks = locks});
  }
  bool refused(FileLocks locks, bool read_only = false) {
    try {
      open(locks, read_only);
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kLocked);
      EXPECT_NE(std::string(error.what()).find(path_), std::string::npos);
      return true;
    }
  }

  ScratchDir scratch_;
  std::string path_ = scratch_.file("image");
};

TEST_F(Locks, OneWriterOrManyReadersOfAFormat) {
  {
    auto writer = open(FileLocks::format(false));
    EXPECT_TRUE(refused(FileLocks::format(false)));
    EXPECT_TRUE(refused(FileLocks::format(true), true));
    EXPECT_TRUE(refused(FileLocks::raw(false)));
    EXPECT_FALSE(refused(FileLocks::raw(true), true));  // a raw reader bears writers
    EXPECT_FALSE(refused(FileLocks::force_share(), true));
    EXPECT_FALSE(refused(FileLocks::none()));
  }
  auto reader = open(FileLocks::format(true), true);
  EXPECT_FALSE(refused(FileLocks::format(true), true));
  EXPECT_TRUE(refused(FileLocks::format(false)));
  EXPECT_TRUE(refused(FileLocks::raw(false)));
}

TEST_F(Locks, RawWritersShare) {
  auto writer = open(FileLocks::raw(false));
  EXPECT_FALSE(refused(FileLocks::raw(false)));
  EXPECT_FALSE(refused(FileLocks::raw(true), true));
  EXPECT_TRUE(refused(FileLocks::format(true), true));
}

TEST_F(Locks, ChangeOnAnOpenFile) {
  auto first = open(FileLocks::format(true), false);
  auto second = open(FileLocks::format(true), false);
  EXPECT_THROW(first->set_locks(FileLocks::format(false)), Error);
  EXPECT_TRUE(refused(FileLocks::raw(false))) << "a failed change keeps the old locks";
  EXPECT_FALSE(refused(FileLocks::format(true), true)) << "and takes no new ones";
  second.reset();
  first->set_locks(FileLocks::format(false));
  EXPECT_TRUE(refused(FileLocks::format(true), true));
  first->set_locks(FileLocks::none());
  EXPECT_FALSE(refused(FileLocks::format(false)));
}

// A qemu-io that has opened an image and waits for commands, or one that has refused to.
class QemuIo {
 public:
  QemuIo(const std::string& path, std::vector<std::string> options) {
    int to_child[2];
    int from_child[2];
    if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0)
      throw std::runtime_error("no pipe");
    std::vector<std::string> words = {"qemu-io"};
    words.insert(words.end(), options.begin(), options.end());
    words.push_back(path);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to_child[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from_child[1], 1);
    posix_spawn_file_actions_adddup2(&actions, from_child[1], 2);
    const int error = posix_spawnp(&child_, "qemu-io", &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(to_child[0]);
    close(from_child[1]);
    to_ = to_child[1];
    from_ = from_child[0];
    if (error != 0) child_ = -1;
    read_until_prompt();
  }
  ~QemuIo() {
    close(to_);
    close(from_);
    if (child_ > 0) waitpid(child_, nullptr, 0);  // the end of its input ends it
  }
  QemuIo(const QemuIo&) = delete;
  QemuIo& operator=(const QemuIo&) = delete;

  bool started() const { return child_ > 0; }
  bool holds_image() const { return output_.find("qemu-io>") != std::string::npos; }
  const std::string& output() const { return output_; }

 private:
  void read_until_prompt() {
    char bytes[256];
    while (!holds_image()) {
      const ssize_t got = ::read(from_, bytes, sizeof bytes);
      if (got <= 0) return;
      output_.append(bytes, static_cast<size_t>(got));
    }
  }

  pid_t child_ = -1;
  int to_ = -1;
  int from_ = -1;
  std::string output_;
};

class QemuLocks : public Locks {
 protected:
  QemuLocks() {
    auto file = FileDevice::open(path_, {});
    EXPECT_EQ(ftruncate(file->fd(), 1 << 20), 0);
  }
  bool make_qcow2() {
    const std::string command = "qemu-img create -q -f qcow2 '" + path_ + "' 1M";
    return std::system(command.c_str()) == 0;
  }
};

TEST_F(QemuLocks, RefusesWhatQemuHolds) {
  ASSERT_TRUE(make_qcow2()) << "this test needs qemu-img and qemu-io";
  {
    const QemuIo writer(path_, {"-f", "qcow2"});
    ASSERT_TRUE(writer.holds_image()) << writer.output();
    EXPECT_TRUE(refused(FileLocks::format(false)));
    EXPECT_TRUE(refused(FileLocks::format(true), true));
    EXPECT_FALSE(refused(FileLocks::force_share(), true));
  }
  {
    const QemuIo reader(path_, {"-r", "-f", "qcow2"});
    ASSERT_TRUE(reader.holds_image()) << reader.output();
    EXPECT_TRUE(refused(FileLocks::format(false)));
    EXPECT_FALSE(refused(FileLocks::format(true), true));
  }
  EXPECT_FALSE(refused(FileLocks::format(false)));
}

TEST_F(QemuLocks, QemuRefusesWhatWeHold) {
  ASSERT_TRUE(make_qcow2()) << "this test needs qemu-img and qemu-io";
  {
    auto writer = open(FileLocks::format(false));
    const QemuIo refused_writer(path_, {"-f", "qcow2"});
    EXPECT_FALSE(refused_writer.holds_image());
    EXPECT_NE(refused_writer.output().find("lock"), std::string::npos) << refused_writer.output();
    EXPECT_FALSE(QemuIo(path_, {"-r", "-f", "qcow2"}).holds_image());
    EXPECT_TRUE(QemuIo(path_, {"-r", "-U", "-f", "qcow2"}).holds_image());
  }
  {
    auto reader = open(FileLocks::format(true), true);
    EXPECT_FALSE(QemuIo(path_, {"-f", "qcow2"}).holds_image());
    EXPECT_TRUE(QemuIo(path_, {"-r", "-f", "qcow2"}).holds_image());
  }
  EXPECT_TRUE(QemuIo(path_, {"-f", "qcow2"}).holds_image());
}

}  // namespace
}  // namespace cofre::storage
