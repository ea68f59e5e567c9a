// The commands of `cofre io`: qemu-io's, by name.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/open.h"
#include "io/task.h"

namespace cofre::tool {

// An image as the commands see it: `device` takes requests of any alignment.
struct IoTarget {
  image::OpenedImage image;
  bool quit = false;
};

struct IoCommand {
  std::string_view name;
  std::string_view alias;  // another name, or empty
  std::string_view usage;  // what follows the name
  std::string_view text;
  std::string_view options;  // as for CommandWords
  // False: the command failed and said so. Throws BadCommand, Error.
  io::task<bool> (*run)(IoTarget& target, const std::vector<std::string>& words);
};

std::span<const IoCommand> io_commands() noexcept;
// Null: there is none.
const IoCommand* find_io_command(std::string_view name) noexcept;

}  // namespace cofre::tool
