#include "tool/server_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cerrno>
#include <ctime>

#include "base/error.h"
#include "tool/terminal.h"

namespace cofre::tool {

ServerLog::ServerLog(std::string program, std::optional<std::string> path)
    : program_(std::move(program)), path_(std::move(path)) {
  if (path_) file_ = open_file();
}

OwnedFd ServerLog::open_file() const {
  OwnedFd file(::open(path_->c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600));
  if (!file) fail_errno(errno, "cannot write to the log '{}'", *path_);
  return file;
}

bool ServerLog::may_say() {
  const auto second =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now().time_since_epoch());
  if (second != second_) {
    second_ = second;
    lines_ = 0;
  }
  return ++lines_ <= kLinesPerSecond;
}

void ServerLog::operator()(const std::string& line) {
  const std::lock_guard lock(mutex_);
  if (!may_say()) return;
  if (!file_) {
    tell(fmt::format("{}: {}\n", program_, line));
    return;
  }
  const std::string text = fmt::format("{:%FT%TZ} {}: {}\n", fmt::gmtime(std::time(nullptr)), program_, line);
  // A full disk loses lines, and nothing else.
  [[maybe_unused]] const ssize_t written = ::write(file_.get(), text.data(), text.size());
}

void ServerLog::rotate() {
  if (!path_) fail(ErrorKind::kUnsupported, "the server has no log file: start it with --log PATH");
  OwnedFd file = open_file();
  const std::lock_guard lock(mutex_);
  file_ = std::move(file);
}

}  // namespace cofre::tool
