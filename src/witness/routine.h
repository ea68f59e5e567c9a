// Which routine an address of a file belongs to, and whether it is one of AES: by its instructions, by its
// name, or because a routine whose name says so calls it. (Tables and bit slices have no instructions to tell
// them by, and stripped libraries leave only exported names.)
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "witness/code_map.h"

namespace cofre::witness {

struct Routine {
  std::string name;  // a number and what is known of it where there is none; empty: not even bounds are known
  bool named = false;
  bool is_aes = false;
  bool has_aes_instructions = false;
};

class RoutineFinder {
 public:
  // `code` outlives it.
  explicit RoutineFinder(const ModuleCode& code);

  // `address` as the file has it.
  Routine at(uint64_t address) const;

 private:
  void note_callees(const CodeRange& caller, const std::string& name);
  Routine nameless_at(uint64_t address) const;

  const ModuleCode& code_;
  std::map<uint64_t, uint64_t> ranges_ = {};      // functions of .eh_frame: end by start
  std::map<uint64_t, std::string> callers_ = {};  // by where they call to: names that speak of AES
};

}  // namespace cofre::witness
