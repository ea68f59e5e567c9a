// The terminal: passphrases typed on it, and the progress of a job drawn on it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "crypto/secret.h"
#include "job/progress.h"

namespace cofre::tool {

// Says something to the user on standard error. A stream that takes nothing (closed, full, a terminal that is
// gone) is no reason to fail: the text is lost.
void tell(const std::string& text) noexcept;

// Asks on /dev/tty without echo; `creating`: twice, until both are equal. Nothing when there is no terminal.
// Throws Error kCancelled when the user gives up (Ctrl-C, Ctrl-D).
std::optional<crypto::SecretBytes> ask_passphrase(const std::string& image, bool creating);

// Whether standard output is a terminal that shows colours, and the user has not declined them (NO_COLOR).
bool standard_output_has_colours();

// Shows how far a job is. Not for more than one thread.
class ProgressDisplay {
 public:
  enum class Style {
    kNone,
    kPercent,  // qemu-img's -p on standard output: "    (12.34/100%)\r"
    kBar,      // a bar with speed and time left on standard error
  };
  // The style of a command: `percent` asked for with -p; a bar by itself when standard error is a terminal.
  static Style choose(bool is_cofre, bool percent, bool quiet);

  explicit ProgressDisplay(Style style) : style_(style) {}
  ~ProgressDisplay() { finish(); }
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void show(uint64_t done, uint64_t total);
  // Ends the line, once.
  void finish();

 private:
  void draw_bar(uint64_t done, uint64_t total);

  Style style_;
  bool open_line_ = false;
  std::optional<std::chrono::steady_clock::time_point> started_;
};

// A job that shows its progress there, and ends when the user interrupts it (interrupt.h). `display` outlives
// it.
job::Progress progress_on(ProgressDisplay& display);

}  // namespace cofre::tool
