// Ctrl-C and its relatives (SIGINT, SIGTERM, SIGHUP): the first one asks running jobs to stop, so that they
// clean up; a second one removes temporary files and ends the program at once.
#pragma once

#include <string>

namespace cofre::tool {

void install_interrupt_handlers();
bool interrupted() noexcept;
// 128 + the signal's number: 130 after Ctrl-C.
int interrupted_exit_status() noexcept;

// The file or empty folder that a second signal removes, while this lives. Of several (eight at most; more
// are left) the youngest goes first. Made and destroyed on one thread, the last one first.
class RemoveOnSecondSignal {
 public:
  explicit RemoveOnSecondSignal(const std::string& path);
  ~RemoveOnSecondSignal();
  RemoveOnSecondSignal(const RemoveOnSecondSignal&) = delete;
  RemoveOnSecondSignal& operator=(const RemoveOnSecondSignal&) = delete;
};

}  // namespace cofre::tool
