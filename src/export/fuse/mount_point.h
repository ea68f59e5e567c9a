// The file that an image is mounted over: found or made, and left as it was found.
#pragma once

#include <string>

namespace cofre::fuse {

// Blocks for moments: for the start and the end of a server.
class MountPoint {
 public:
  // An existing regular file, or none yet: then an empty one is made. What a server of ours that was killed
  // left mounted there is unmounted. Throws Error.
  explicit MountPoint(const std::string& path);
  // Removes the file that was made, if it is that one still, and empty. Nothing may be mounted on it.
  ~MountPoint();
  MountPoint(const MountPoint&) = delete;
  MountPoint& operator=(const MountPoint&) = delete;

  // Absolute, without symbolic links.
  const std::string& path() const noexcept { return path_; }
  // Unmounts what has no server any more; nothing if there is no such thing.
  void unmount_if_dead() noexcept;

 private:
  void make_file();

  std::string path_;
  bool made_ = false;
  unsigned long device_ = 0;  // these two: which file was made
  unsigned long inode_ = 0;
};

// Throws Error, which says what to do, where the kernel's interface is not to be had at all.
void require_fuse_device();
// Whether this process may let other users open what it mounts.
bool may_allow_other();

}  // namespace cofre::fuse
