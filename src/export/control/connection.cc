#include "export/control/connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>

#include "base/error.h"

namespace cofre::control {
namespace {

constexpr size_t kReceiveBytes = 4096;

// The peer as it was when it connected.
bool may_ask(int fd) noexcept {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

io::task<bool> send_line(int fd, const std::string& line, uint64_t within_ns) {
  co_return co_await io::send_all(fd, std::as_bytes(std::span(line)), nullptr,
                                  io::Deadline::after_ns(within_ns)) == 0;
}

class Conversation {
 public:
  Conversation(int fd, io::Cancel& cancel, const Handler& handler, Limits limits)
      : fd_(fd), cancel_(cancel), handler_(handler), limits_(limits) {}

  io::task<void> run() {
    if (!may_ask(fd_)) {
      const Error refusal(ErrorKind::kPermission, "only the server's own user, or root, may ask here");
      co_await send_line(fd_, error_line({}, refusal), limits_.line_ns);
      co_return;
    }
    while (std::optional<std::string> line = co_await take_line())
      if (!co_await send_line(fd_, co_await answer(std::move(*line)), limits_.line_ns)) co_return;
    if (too_long_)
      co_await send_line(fd_, error_line({}, Error(ErrorKind::kLimit, "the request is too long")),
                         limits_.line_ns);
  }

 private:
  // Nothing: there is no further request.
  io::task<std::optional<std::string>> take_line() {
    io::Deadline deadline = io::Deadline::after_ns(received_.empty() ? limits_.idle_ns : limits_.line_ns);
    size_t looked_at = 0;
    for (;;) {
      const size_t end = received_.find('\n', looked_at);
      if (end != std::string::npos && end <= kMostLineBytes) {
        std::string line = received_.substr(0, end);
        received_.erase(0, end + 1);
        co_return line;
      }
      looked_at = received_.size();
      too_long_ = looked_at > kMostLineBytes;
      if (too_long_) co_return std::nullopt;
      std::array<std::byte, kReceiveBytes> piece;
      const int64_t got = co_await io::receive(fd_, piece, &cancel_, deadline);
      if (got <= 0) co_return std::nullopt;
      if (received_.empty()) deadline = io::Deadline::after_ns(limits_.line_ns);
      received_.append(reinterpret_cast<const char*>(piece.data()), static_cast<size_t>(got));
    }
  }

  io::task<std::string> answer(std::string line) {
    Json id;
    try {
      Request request = Request::parse(line);
      id = request.id();
      Json result = co_await handler_(std::move(request));
      co_return answer_line(id, std::move(result));
    } catch (const std::exception& error) {
      co_return error_line(id, error);
    }
  }

  int fd_;
  io::Cancel& cancel_;
  const Handler& handler_;
  const Limits limits_;
  std::string received_;
  bool too_long_ = false;
};

}  // namespace

io::task<void> converse(int fd, io::Cancel& cancel, const Handler& handler, Limits limits) {
  try {
    Conversation conversation(fd, cancel, handler, limits);
    co_await conversation.run();
  } catch (const std::exception&) {  // no memory: hangs up
  }
}

}  // namespace cofre::control
