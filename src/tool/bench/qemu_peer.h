// QEMU's tools at the work of a sweep: qemu-img converts, and `qemu-img bench` reads and writes plain images.
// It takes no secret and so opens no encrypted image: there qemu-io reads and writes.
//
// Both get the same requests as cofre in the same order. qemu-io's are asynchronous, at most kMostInFlight at
// once; its own work a command (parsing, a fresh buffer) is measured with the same commands on a null device,
// to be taken off.
#pragma once

#include <string>

#include "job/request_load.h"

namespace cofre::tool {

class QemuPeer {
 public:
  static constexpr unsigned kMostInFlight = 64;

  // `qemu_img`: a path or a name to be looked up in PATH; qemu-io is taken from beside it. Throws Error
  // kNotFound when either is not there, kInvalidArgument when it is Cofre under that name.
  explicit QemuPeer(const std::string& qemu_img);

  const std::string& version() const noexcept { return version_; }

  // By `qemu-img bench`: the seconds from the first request to the end of the last, in whole milliseconds.
  double send_plain(const job::RequestLoad& load, const std::string& image) const;

  // All others give the seconds of the whole process. `secret` is an --object, images are lists of options
  // that name it. `commands_path` is a file to be written. Throw Error.
  double convert(const std::string& secret, const std::string& source, const std::string& target) const;
  double send(const job::RequestLoad& load, const std::string& secret, const std::string& image,
              const std::string& commands_path) const;
  double send_to_null(const job::RequestLoad& load, const std::string& commands_path) const;

 private:
  std::string qemu_img_;
  std::string qemu_io_;
  std::string version_;
};

}  // namespace cofre::tool
