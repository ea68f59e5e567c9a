// What servers do at their start: go to the background once they can be used, say under which process id,
// take over sockets that listen already.
#pragma once

#include <optional>
#include <string>

namespace cofre::tool {

// A process that was forked off, whose parent waits until it is ready or failed. Before any thread is made.
class Background {
 public:
  // Forks. In the parent nothing returns but its exit status, once that is known: 0 when the child was ready,
  // else the child's. In the child nothing is returned.
  static std::optional<int> enter(Background& background);
  // The parent may end: from now on there is no terminal. Nothing where nobody forked.
  void ready();

 private:
  int pipe_ = -1;
};

// A file with this process's id, removed at the end. Throws Error: kExists when another process holds it.
class PidFile {
 public:
  explicit PidFile(std::string path);
  ~PidFile();
  PidFile(const PidFile&) = delete;
  PidFile& operator=(const PidFile&) = delete;

 private:
  std::string path_;
  int fd_;
};

// The sockets that the service manager passed (LISTEN_PID, LISTEN_FDS): descriptors from 3 on. Forgets them,
// so that no other program is told. To be called in the process that was started.
unsigned take_passed_sockets();
// Tells the service manager, where one asks for it (NOTIFY_SOCKET): "READY=1", "STOPPING=1", "STATUS=...",
// one a line. Source: sd_notify(3). That it does not hear is no reason to fail.
void notify_service_manager(const std::string& state) noexcept;
inline constexpr int kFirstPassedSocket = 3;

}  // namespace cofre::tool
