// Where functions begin and end according to .eh_frame: what an unwinder relies on, and all that a stripped
// library has. (Linux Standard Base, "Exception Frames"; DWARF 5, 6.4.)
#pragma once

#include <libelf.h>

#include <cstdint>
#include <vector>

namespace cofre::witness {

// Addresses as the ELF file has them.
struct CodeRange {
  uint64_t start = 0;
  uint64_t end = 0;
};

// Of every frame description entry that can be read; none when there is no such section. Unsorted.
std::vector<CodeRange> fde_ranges(Elf* elf);

}  // namespace cofre::witness
