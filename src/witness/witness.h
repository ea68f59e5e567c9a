// Which AES instructions does a program really execute?
//
// Watching: every AES instruction in the code that a process has mapped is replaced by a jump to a slot that
// notes the hit and executes it; at its first hit it is put back. docs/witness.md tells how, why this
// cannot harm the process even when the witness is killed, and what the limits are.
// Sampling: nothing in the process is changed; the share of time in each AES routine is estimated.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "witness/report.h"

namespace cofre::witness {

struct Options {
  // A program to start, found through PATH, and its arguments; or else
  std::vector<std::string> command = {};
  // a running process.
  std::optional<pid_t> pid = {};
  // A process is let go of after that long; a command is asked to end (SIGTERM).
  std::optional<std::chrono::milliseconds> duration = {};
  // Sample with perf_event_open(2) where the system permits it; else, or without it, by stopping threads.
  bool use_perf = true;
  // Asked every few milliseconds: a signal by which the user wants to end, or 0. A process is let go of; a
  // command gets the signal, unless it is a SIGINT that a terminal sends it anyway.
  std::function<int()> stop_signal = {};
};

// Both trace from the calling thread, which must have no other children, and block SIGCHLD in it. They return
// when the command has ended (what it left running is let go of), when the process has, or when the time is
// over. Throw Error.
Report watch(const Options& options);
Report sample(const Options& options);

}  // namespace cofre::witness
