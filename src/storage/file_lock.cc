#include "storage/file_lock.h"

#include <fcntl.h>

#include <cerrno>

#include "base/error.h"

namespace cofre::storage {
namespace {

constexpr off_t kUsedBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr unsigned kPermissionBits = 4;

const char* permission_name(unsigned bit) {
  constexpr const char* kNames[kPermissionBits] = {"consistent read", "write", "write unchanged", "resize"};
  return kNames[bit];
}

struct flock byte_lock(short type, off_t byte) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

// File systems without lock support (some network ones) cannot protect anybody; that is no reason to refuse
// work.
bool locks_missing(int error) {
  return error == ENOSYS || error == ENOTSUP || error == EINVAL || error == ENOLCK;
}

bool take(int fd, off_t byte) {
  struct flock lock = byte_lock(F_RDLCK, byte);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 || locks_missing(errno);
}

void drop(int fd, off_t byte) {
  struct flock lock = byte_lock(F_UNLCK, byte);
  fcntl(fd, F_OFD_SETLK, &lock);
}

bool others_hold(int fd, off_t byte) {
  struct flock lock = byte_lock(F_WRLCK, byte);
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void drop_all(int fd, FileLocks locks, FileLocks except) {
  for (unsigned bit = 0; bit < kPermissionBits; ++bit) {
    if ((locks.used & ~except.used) >> bit & 1) drop(fd, kUsedBase + bit);
    if ((locks.unshared & ~except.unshared) >> bit & 1) drop(fd, kUnsharedBase + bit);
  }
}

// The bit of the first permission that stands between `wanted` and another process, or -1.
int conflict(int fd, FileLocks wanted) {
  for (unsigned bit = 0; bit < kPermissionBits; ++bit) {
    if ((wanted.used >> bit & 1) && others_hold(fd, kUnsharedBase + bit)) return static_cast<int>(bit);
    if ((wanted.unshared >> bit & 1) && others_hold(fd, kUsedBase + bit)) return static_cast<int>(bit);
  }
  return -1;
}

}  // namespace

void lock_file(int fd, const std::string& path, FileLocks held_before, FileLocks wanted) {
  // First announce, then look: of two processes that try at once, at least one sees the other.
  bool taken = true;
  for (unsigned bit = 0; bit < kPermissionBits; ++bit) {
    if (wanted.used >> bit & 1) taken = take(fd, kUsedBase + bit) && taken;
    if (wanted.unshared >> bit & 1) taken = take(fd, kUnsharedBase + bit) && taken;
  }
  const int bit = taken ? conflict(fd, wanted) : 1;
  if (bit >= 0) {
    drop_all(fd, wanted, held_before);
    fail(ErrorKind::kLocked,
         "'{}' is in use: failed to get \"{}\" lock. Is another process (a running VM?) using the image? "
         "Stop it, or "
         "read with -U (--force-share) if you accept changing data",
         path, permission_name(static_cast<unsigned>(bit)));
  }
  drop_all(fd, held_before, wanted);
}

}  // namespace cofre::storage
