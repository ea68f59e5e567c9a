// What a server says while it runs: on standard error, or in a file that may be moved away and begun anew.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>

#include "base/owned_fd.h"

namespace cofre::tool {

// Lines for people, not more than somebody can read: a client must not fill a disk with them. Any lane.
class ServerLog {
 public:
  // `path`: of the file that lines are appended to, each with the time; none: standard error. Throws Error.
  ServerLog(std::string program, std::optional<std::string> path);

  void operator()(const std::string& line);
  // Opens the file again, which is made where it was moved away. Throws Error: kUnsupported where there is no
  // file; then, and where it cannot be opened, lines go where they went before.
  void rotate();

 private:
  OwnedFd open_file() const;
  bool may_say();

  static constexpr unsigned kLinesPerSecond = 20;
  std::mutex mutex_;
  std::string program_;
  std::optional<std::string> path_;
  OwnedFd file_;
  std::chrono::seconds second_{};
  unsigned lines_ = 0;
};

}  // namespace cofre::tool
