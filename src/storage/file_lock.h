// Image locks as QEMU takes them: shared open-file-description locks on single bytes of the image file, one
// byte a permission, so that a running QEMU and Cofre refuse each other's images in use.
//
// For permission i, a process that uses it holds a read lock on byte 100 + i; a process that cannot bear
// others using it holds a read lock on byte 200 + i. Locks are kept by the open file description and die with
// it. (Facts checked against qemu-io 7.2 through /proc/locks; see docs/format/locks.md.)
#pragma once

#include <cstdint>
#include <string>

namespace cofre::storage {

enum Permission : uint8_t {
  kPermissionNone = 0,
  kConsistentRead = 1u << 0,
  kWrite = 1u << 1,
  kWriteUnchanged = 1u << 2,
  kResize = 1u << 3,
};

struct FileLocks {
  uint8_t used = kPermissionNone;      // Permissions this process uses
  uint8_t unshared = kPermissionNone;  // Permissions that others must not use

  static constexpr FileLocks none() { return {}; }
  // A format's image (qcow2, luks), opened for reading or writing; a raw image bears other users.
  static constexpr FileLocks format(bool read_only) {
    return {static_cast<uint8_t>(read_only ? kConsistentRead : kConsistentRead | kWrite | kResize),
            kWrite | kResize};
  }
  static constexpr FileLocks raw(bool read_only) {
    return {static_cast<uint8_t>(read_only ? kConsistentRead : kConsistentRead | kWrite), kPermissionNone};
  }
  // -U: reads what another process may be writing.
  static constexpr FileLocks force_share() { return {kConsistentRead, kPermissionNone}; }
};

// Takes `wanted` on the open file `fd`, dropping what it held before and does not want any more. Throws Error
// kLocked, naming `path` and the permission, when another process stands against it; nothing new is held
// then.
void lock_file(int fd, const std::string& path, FileLocks held_before, FileLocks wanted);

}  // namespace cofre::storage
