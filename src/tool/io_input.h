// Where `cofre io` gets its commands from when no -c gives them: the lines of standard input, with editing
// and a history (of this run, in memory only) when that is a terminal. Home lane.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/task.h"

namespace cofre::tool {

class CommandInput {
 public:
  virtual ~CommandInput() = default;
  // The next line, without its end. Nothing: the input has ended, or a signal asks to stop.
  virtual io::task<std::optional<std::string>> next() = 0;
};

// `busy` tells whether something is in flight on this lane, which then goes on while a line is awaited.
// `completions` are the words that the tabulator key completes at the beginning of a line.
std::unique_ptr<CommandInput> make_command_input(const std::string& prompt, std::function<bool()> busy,
                                                 std::vector<std::string> completions);

}  // namespace cofre::tool
