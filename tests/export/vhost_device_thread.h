// A vhost-user block device on a thread of its own, for tests that are its front end.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "export/vhost_front_end.h"
#include "export/vhost_user_blk/session.h"

namespace cofre::vhost::testing {

struct SocketPair {
  SocketPair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, &fds[0]) != 0)
      throw std::runtime_error("socketpair");
    front_end = OwnedFd(fds[0]);
    device = OwnedFd(fds[1]);
  }
  OwnedFd front_end;
  OwnedFd device;
};

// Serves one front end until that hangs up, breaks the protocol, or this ends.
class DeviceThread {
 public:
  DeviceThread(block::Device& device, OwnedFd socket, DeviceSettings settings = {}, unsigned lanes = 2,
               io::Backend backend = io::Backend::kAutomatic)
      : socket_(std::move(socket)) {
    settings.name = "test";
    settings.device = &device;
    settings.log = [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      log_.push_back(line);
    };
    thread_ = std::thread([this, settings, lanes, backend] { serve(settings, lanes, backend); });
  }
  ~DeviceThread() { join(); }

  // After the front end hung up.
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  std::string log() const {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const std::string& line : log_) all += line + "\n";
    return all;
  }

 private:
  void serve(const DeviceSettings& settings, unsigned count, io::Backend backend) {
    io::Lanes lanes(count, backend);
    BlockDevice device(settings);
    io::Cancel cancel;
    Session session(std::move(socket_), device, lanes, cancel);
    try {
      lanes.run(session.run());
    } catch (const std::exception& error) {
      settings.log(std::string("cut off: ") + error.what());
    }
  }

  OwnedFd socket_;
  mutable std::mutex mutex_;
  std::vector<std::string> log_;
  std::thread thread_;
};

}  // namespace cofre::vhost::testing
