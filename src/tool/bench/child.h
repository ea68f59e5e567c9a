// Runs other programs and waits for them.
#pragma once

#include <string>
#include <vector>

namespace cofre::tool {

struct ChildCommand {
  std::string program;  // a path, or a name to be looked up in PATH
  std::vector<std::string> arguments;
  std::string input_path = "/dev/null";  // its standard input
};

struct ChildResult {
  int status = 0;  // its exit status; 128 + the signal that ended it
  double seconds = 0;
  std::string output;  // on standard output and standard error
};

// Throws Error: kNotFound when there is no such program; kCancelled after Ctrl-C, when the child was stopped.
ChildResult run_child(const ChildCommand& command);
// The same, of a child that must succeed: throws Error kIo with what it said.
ChildResult run_child_well(const ChildCommand& command);

// This program itself, as ChildCommand::program.
inline constexpr const char* kOwnProgram = "/proc/self/exe";

}  // namespace cofre::tool
