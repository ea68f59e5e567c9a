#include "export/fuse/mount_point.h"

#include <fcntl.h>
#include <mntent.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "export/fuse/session.h"

namespace cofre::fuse {
namespace {

constexpr const char* kDevice = "/dev/fuse";
constexpr const char* kConfiguration = "/etc/fuse.conf";

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
  return real ? real.get() : "";
}

// Of a file that need not be there, or that nobody serves; its folder must be.
std::string absolute_path(const std::string& path) {
  if (std::string real = real_path(path); !real.empty()) return real;
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  const std::string real_folder = real_path(folder);
  if (real_folder.empty()) fail_errno(errno, "'{}': the folder of a mount point", folder);
  return (real_folder == "/" ? "" : real_folder) + "/" + name;
}

// The file system that is mounted on `path`: "fuse.cofre"; empty if there is none.
std::string mounted_type(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> mounts(::setmntent("/proc/self/mounts", "r"), &::endmntent);
  if (!mounts) return "";
  std::string type;
  mntent entry = {};
  std::array<char, 4 * PATH_MAX> text;
  while (::getmntent_r(mounts.get(), &entry, text.data(), text.size()) != nullptr)
    if (path == entry.mnt_dir) type = entry.mnt_type;  // the last one is on top
  return type;
}

// Without privileges it is the business of a program that is set-uid root.
bool unmount_by_helper(const std::string& path) {
  std::array<const char*, 6> arguments = {"fusermount3", "-u", "-z", "--", path.c_str(), nullptr};
  pid_t child = 0;
  if (::posix_spawnp(&child, arguments[0], nullptr, nullptr, const_cast<char* const*>(arguments.data()),
                     environ) != 0)
    return false;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool unmount(const std::string& path) {
  return ::umount2(path.c_str(), MNT_DETACH) == 0 || unmount_by_helper(path);
}

// A mount whose server is gone answers so.
bool is_dead(const std::string& path) {
  struct stat found = {};
  return ::stat(path.c_str(), &found) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

}  // namespace

MountPoint::MountPoint(const std::string& path) : path_(absolute_path(path)) {
  if (is_dead(path_)) {
    const std::string type = mounted_type(path_);
    if (type != kMountType || !unmount(path_))
      fail(ErrorKind::kLocked,
           "'{}': a file system ({}) whose server is gone is mounted there: fusermount3 -u '{}', or umount",
           path_, type.empty() ? "of an unknown type" : type, path_);
  }
  struct stat found = {};
  if (::stat(path_.c_str(), &found) != 0) {
    if (errno != ENOENT) fail_errno(errno, "cannot mount on '{}'", path_);
    make_file();
  } else if (!S_ISREG(found.st_mode)) {
    fail(ErrorKind::kInvalidArgument,
         "cannot mount on '{}': a disk is a file, and is mounted on a regular file or on one that is made",
         path_);
  } else if (mounted_type(path_) == kMountType) {
    fail(ErrorKind::kExists, "cannot mount on '{}': another server has mounted a disk there", path_);
  }
}

void MountPoint::make_file() {
  const int fd = ::open(path_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) fail_errno(errno, "cannot create the mount point '{}'", path_);
  struct stat made = {};
  made_ = ::fstat(fd, &made) == 0;
  device_ = made.st_dev;
  inode_ = made.st_ino;
  ::close(fd);
}

MountPoint::~MountPoint() {
  struct stat found = {};
  if (made_ && ::lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_ &&
      found.st_size == 0)
    ::unlink(path_.c_str());
}

void MountPoint::unmount_if_dead() noexcept {
  try {
    if (is_dead(path_)) unmount(path_);
  } catch (const std::bad_alloc&) {  // it stays: the next server takes it away
  }
}

void require_fuse_device() {
  const int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    ::close(fd);
    return;
  }
  fail_errno(
      errno,
      "'{}' cannot be used. Load the kernel's module (modprobe fuse); a container needs the device and the "
      "right to mount (docker run --device {} --cap-add SYS_ADMIN)",
      kDevice, kDevice);
}

bool may_allow_other() {
  if (::geteuid() == 0) return true;
  std::ifstream lines(kConfiguration);
  for (std::string line; std::getline(lines, line);) {
    const size_t end = line.find_last_not_of(" \t\r");
    if (end != std::string::npos && line.substr(0, end + 1) == "user_allow_other") return true;
  }
  return false;
}

}  // namespace cofre::fuse
