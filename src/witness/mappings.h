// What a process has mapped: /proc/PID/maps (proc(5)).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cofre::witness {

struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  bool executable = false;
  bool is_private = false;  // writes to it do not reach the file
  uint64_t file_offset = 0;
  uint64_t inode = 0;       // 0: no file
  std::string device = {};  // "fe:00"
  std::string path = {};    // of the file, or "[vdso]"; empty for anonymous memory

  bool is_file() const noexcept { return inode != 0; }
};

// By address. `text` is the content of the file.
std::vector<Mapping> parse_mappings(const std::string& text);

// An address where `length_bytes` (of pages) are free, near enough to [start, end) for 32-bit displacements
// either way; 0 when there is none. As far below as the heap and the libraries to come are out of its way.
uint64_t free_place(const std::vector<Mapping>& mappings, uint64_t start, uint64_t end,
                    uint64_t length_bytes);

}  // namespace cofre::witness
