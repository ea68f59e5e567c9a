// Finds the AES instructions of a stretch of code, and proves that they are instructions.
//
// A patch in the middle of an instruction, or in data that lies among code, would corrupt the program. So an
// AES instruction counts only where control flow leads: it is reached from an entry of the stretch (its
// start, a symbol, a branch from elsewhere), following branches and what is behind calls. A stretch with
// indirect jumps (a switch) hides some of its flow; there, and only if reading the stretch from front to back
// is consistent (every byte decodes, the last instruction ends where the stretch does, every entry and every
// branch meets the start of an instruction), the instructions of that reading count too. Where flow runs
// into bytes that are no instruction, or into the middle of one, nothing of the stretch counts.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "witness/fde_ranges.h"
#include "witness/instruction.h"

namespace cofre::witness {

struct AesSite {
  uint64_t address = 0;  // as the ELF file has it
  std::array<std::byte, kLongestInstruction> bytes = {};
  Instruction instruction = {};
  uint32_t function = 0;  // an index into ModuleCode::functions
  AesForm form = {};

  ConstBytes code() const noexcept { return {bytes.data(), instruction.length}; }
};

struct Stretch {
  CodeRange range = {};
  ConstBytes bytes = {};  // all of the range
  std::vector<uint64_t> entries = {};
};

struct Swept {
  std::vector<AesSite> sites = {};  // proven, by address
  size_t unproven = 0;              // what reads as AES from front to back, and is not proven
};

Swept sweep(const Stretch& stretch);

// The targets of direct branches, jumps and calls out of the stretch, read from front to back.
std::vector<uint64_t> targets_outside(const Stretch& stretch);

}  // namespace cofre::witness
