// A disk image mounted as a file, from the mount until it is unmounted, by us or from outside.
//
// Belongs to the home lane; requests run on the lane where the image is at home.
#pragma once

#include <functional>
#include <string>

#include "export/fuse/image_file.h"
#include "export/fuse/mount_point.h"
#include "export/fuse/session.h"
#include "io/lanes.h"
#include "io/sync.h"

namespace cofre::fuse {

enum class AllowOther { kOff, kOn, kAutomatic };  // kAutomatic: where the system lets us

class Server {
 public:
  // Mounts; programs that open the file wait until start(). The lanes outlive it. Throws Error.
  Server(io::Lanes& lanes, unsigned lane, const std::string& path, AllowOther allow_other,
         FileSettings settings);

  const std::string& path() const noexcept { return mount_point_.path(); }
  // Serves from now on. `on_end` is called when it was unmounted from outside.
  void start(std::function<void()> on_end);
  // Completes what was begun; to be awaited once after start(), before the server is destroyed. The device is
  // not flushed. The destructor unmounts, and leaves the mount point as it was.
  io::task<void> stop();

 private:
  io::task<void> serve();

  io::Lanes& lanes_;
  const unsigned lane_;
  MountPoint mount_point_;
  ImageFile file_;
  std::optional<Session> session_;
  std::function<void()> on_end_;
  io::Cancel cancel_;  // the image's lane's
  io::TaskGroup serving_;
};

}  // namespace cofre::fuse
