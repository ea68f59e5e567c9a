// The folder that a measurement works in: made for it, bounded in size, and removed with it, whatever
// happens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tool/interrupt.h"

namespace cofre::tool {

// The bytes that files in `directory` can still take; in tmpfs no more than there is memory. Throws Error.
uint64_t free_bytes(const std::string& directory);
// "tmpfs", "ext4", ...; a number in hexadecimal for those without a name here. Throws Error.
std::string file_system_name(const std::string& directory);

class Scratch {
 public:
  // Makes a new folder in `parent` for files of these names. Throws Error.
  Scratch(const std::string& parent, const std::vector<std::string>& names);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Of a name given to the constructor.
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void remove(const std::string& name) const;

 private:
  std::string folder_;
  std::vector<std::unique_ptr<RemoveOnSignal>> guards_;
};

}  // namespace cofre::tool
