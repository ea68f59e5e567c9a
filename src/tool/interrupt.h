// Ctrl-C and its relatives (SIGINT, SIGTERM, SIGHUP): the first one asks running jobs to stop, so that they
// clean up. A second one, or the first where nothing looks out for it, removes temporary files and ends the
// program at once.
#pragma once

#include <string>

namespace cofre::tool {

void install_interrupt_handlers();
bool interrupted() noexcept;
// A descriptor that can be read from once a signal came (its bytes mean nothing); -1 if the system gives
// none.
int interrupt_descriptor();
// 128 + the signal's number: 130 after Ctrl-C.
int interrupted_exit_status() noexcept;

// While one lives, somebody asks interrupted() again and again: the first signal does no more than set it.
// Elsewhere, as in the derivation of a key, which a hostile header can make last for hours, nobody asks.
class HeedingSignals {
 public:
  HeedingSignals() noexcept;
  ~HeedingSignals();
  HeedingSignals(const HeedingSignals&) = delete;
  HeedingSignals& operator=(const HeedingSignals&) = delete;
};

// The file or empty folder that a signal removes when it ends the program, while this lives; nothing when the
// path is empty. Of several (eight at most; more are left) the youngest goes first. Made and destroyed on one
// thread, the last one first.
class RemoveOnSignal {
 public:
  explicit RemoveOnSignal(const std::string& path);
  ~RemoveOnSignal();
  RemoveOnSignal(const RemoveOnSignal&) = delete;
  RemoveOnSignal& operator=(const RemoveOnSignal&) = delete;
};

}  // namespace cofre::tool
