// A program that is started to be witnessed: a child that waits until it is traced, then executes it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace cofre::witness {

class Command {
 public:
  // Forks. `words` are the program, found through PATH, and its arguments. Throws Error.
  explicit Command(const std::vector<std::string>& words);
  // A child that still waits ends.
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const noexcept { return pid_; }
  // Lets it execute the program.
  void release();
  // Whether it does by now. Throws Error when it could not.
  bool is_running();

 private:
  [[noreturn]] void run_child(char* const* arguments);

  std::string name_;
  pid_t pid_ = -1;
  int go_[2] = {-1, -1};       // the child waits for a byte
  int failure_[2] = {-1, -1};  // and writes an errno
};

}  // namespace cofre::witness
