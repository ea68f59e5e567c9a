#include "tool/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "image/size.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

constexpr size_t kMaxTypedBytes = 4096;

// The controlling terminal with echo off, as long as this lives.
class QuietTerminal {
 public:
  QuietTerminal() : fd_(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)) {
    if (fd_ < 0) return;
    if (tcgetattr(fd_, &before_) != 0) {
      ::close(fd_);
      fd_ = -1;
      return;
    }
    termios quiet = before_;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    quiet.c_lflag |= ECHONL;
    tcsetattr(fd_, TCSAFLUSH, &quiet);
  }
  ~QuietTerminal() {
    if (fd_ < 0) return;
    tcsetattr(fd_, TCSAFLUSH, &before_);
    ::close(fd_);
  }
  QuietTerminal(const QuietTerminal&) = delete;
  QuietTerminal& operator=(const QuietTerminal&) = delete;

  bool there() const { return fd_ >= 0; }

  void say(const std::string& text) const {
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t wrote = ::write(fd_, text.data() + at, text.size() - at);
      if (wrote < 0 && errno != EINTR) return;
      if (wrote > 0) at += static_cast<size_t>(wrote);
    }
  }

  crypto::SecretBytes read_line() const {
    crypto::SecretBytes line(kMaxTypedBytes);
    size_t length = 0;
    for (;;) {
      const ssize_t got = ::read(fd_, line.data() + length, 1);
      if (interrupted() || got == 0) fail(ErrorKind::kCancelled, "no passphrase was given");
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_errno(errno, "cannot read the passphrase from the terminal");
      if (line.data()[length] == std::byte{'\n'}) break;
      if (++length == line.size())
        fail(ErrorKind::kLimit, "the passphrase is longer than {} bytes: use --passphrase-file",
             kMaxTypedBytes - 1);
    }
    line.truncate(length);
    return line;
  }

 private:
  const HeedingSignals heeding_;  // lest a signal leave the terminal mute; made first, gone last
  int fd_;
  termios before_ = {};
};

unsigned terminal_columns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string time_text(double seconds) {
  const auto whole = static_cast<uint64_t>(std::clamp(seconds, 0.0, 359999.0));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace

void tell(const std::string& text) noexcept {
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

std::optional<crypto::SecretBytes> ask_passphrase(const std::string& image, bool creating) {
  const QuietTerminal terminal;
  if (!terminal.there()) return std::nullopt;
  for (;;) {
    terminal.say(fmt::format("{} for '{}': ", creating ? "New passphrase" : "Passphrase", image));
    crypto::SecretBytes first = terminal.read_line();
    if (!creating) return first;
    if (first.empty()) {
      terminal.say("An empty passphrase protects nothing. Once more.\n");
      continue;
    }
    terminal.say("The same again: ");
    const crypto::SecretBytes second = terminal.read_line();
    if (crypto::equal_constant_time(first.bytes(), second.bytes())) return first;
    terminal.say("The two are not the same. Once more.\n");
  }
}

bool standard_output_has_colours() {
  const char* terminal = std::getenv("TERM");
  const char* declined = std::getenv("NO_COLOR");
  return isatty(STDOUT_FILENO) != 0 && terminal != nullptr && std::string_view(terminal) != "dumb" &&
         (declined == nullptr || *declined == '\0');
}

ProgressDisplay::Style ProgressDisplay::choose(bool is_cofre, bool percent, bool quiet) {
  if (quiet) return Style::kNone;
  if (percent) return Style::kPercent;
  return is_cofre && isatty(STDERR_FILENO) != 0 ? Style::kBar : Style::kNone;
}

void ProgressDisplay::show(uint64_t done, uint64_t total) {
  if (style_ == Style::kNone) return;
  if (!started_) started_ = std::chrono::steady_clock::now();
  if (style_ == Style::kPercent) {
    const double percent = total == 0 ? 100 : 100 * static_cast<double>(done) / static_cast<double>(total);
    std::fputs(fmt::format("    ({:.2f}/100%)\r", percent).c_str(), stdout);
    std::fflush(stdout);
  } else {
    draw_bar(done, total);
  }
  open_line_ = true;
}

void ProgressDisplay::draw_bar(uint64_t done, uint64_t total) {
  const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - *started_).count();
  const double speed = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = done > 0 ? seconds * (1 - part) / part : 0;
  const std::string words = fmt::format(" {:5.1f}%  {} of {}  {}/s  {} left", 100 * part,
                                        image::format_size(done), image::format_size(total),
                                        image::format_size(static_cast<uint64_t>(speed)), time_text(left));
  const size_t columns = terminal_columns();
  const size_t width = columns > words.size() + 13 ? std::min<size_t>(columns - words.size() - 3, 40) : 0;
  const auto full = static_cast<size_t>(part * static_cast<double>(width));
  std::string line = width > 0 ? fmt::format("[{:#>{}}{:>{}}]", "", full, "", width - full) : "";
  line += words;
  tell(fmt::format("\r{}\x1b[K", line.substr(0, columns - 1)));
}

void ProgressDisplay::finish() {
  if (!open_line_) return;
  open_line_ = false;
  std::FILE* const stream = style_ == Style::kBar ? stderr : stdout;
  std::fputs("\n", stream);
  std::fflush(stream);
}

job::Progress progress_on(ProgressDisplay& display) {
  return {.report = [&display](uint64_t done, uint64_t total) { display.show(done, total); },
          .cancelled = interrupted};
}

}  // namespace cofre::tool
