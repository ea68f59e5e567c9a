// An unnamed file for a test.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace cofre::io {

class ScratchFd {
 public:
  ScratchFd() : fd_(memfd_create("cofre-test", MFD_CLOEXEC)) {}
  ~ScratchFd() { close(fd_); }
  ScratchFd(const ScratchFd&) = delete;
  ScratchFd& operator=(const ScratchFd&) = delete;
  operator int() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace cofre::io
