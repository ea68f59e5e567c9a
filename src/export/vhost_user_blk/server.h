// A disk image as a vhost-user block device on a unix socket: one front end (QEMU, cloud-hypervisor) at a
// time.
//
// Belongs to the home lane. When a front end goes away, or comes back after this program was started anew,
// the next one is let in once everything that the one before it had begun is done.
#pragma once

#include "export/nbd/listener.h"
#include "export/vhost_user_blk/block_device.h"
#include "io/lanes.h"
#include "io/sync.h"

namespace cofre::vhost {

class Server {
 public:
  // Lets front ends in from now on. The lanes and the device outlive it.
  Server(io::Lanes& lanes, DeviceSettings settings, nbd::Listener listener);

  // Completes what was begun and hangs up. To be awaited before the server is destroyed, once. The device is
  // not flushed.
  io::task<void> stop();

 private:
  io::task<void> serve_front_ends();

  io::Lanes& lanes_;
  BlockDevice device_;
  nbd::Listener listener_;
  io::Cancel cancel_;
  io::TaskGroup serving_;
};

}  // namespace cofre::vhost
