// One x86-64 machine instruction: is it one of AES, and where does it lead? (Intel SDM volume 2; AES-NI and
// VAES.)
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "witness/aes_form.h"

namespace cofre::witness {

inline constexpr size_t kLongestInstruction = 15;

enum class Flow : uint8_t {
  kNext,          // to the instruction behind it
  kBranch,        // there, or to `target`
  kCall,          // to `target` (if it is known), and back
  kJump,          // to `target` only
  kIndirectJump,  // somewhere only the run knows
  kEnd,           // nowhere: ret, ud2, hlt
};

struct Instruction {
  uint8_t length = 0;
  Flow flow = Flow::kNext;
  bool padding = false;                    // nop or int3, as linkers and assemblers fill gaps
  std::optional<uint64_t> target = {};     // of a direct branch, jump or call
  std::optional<AesForm> aes = {};         // set when it is one
  uint8_t destination = 0;                 // the vector register it writes, when it is one
  std::optional<uint8_t> rip_offset = {};  // where in it a RIP-relative 32-bit displacement stands
};

// The instruction at the start of `bytes`, which lie at `address`; nothing when they are none. Any lane.
std::optional<Instruction> decode(ConstBytes bytes, uint64_t address) noexcept;

// Whether the bytes hold some that an AES instruction could consist of: a quick test that errs to yes.
bool may_hold_aes(ConstBytes bytes) noexcept;

}  // namespace cofre::witness
