#include "witness/sweep.h"

#include <algorithm>
#include <map>

namespace cofre::witness {
namespace {

bool within(const CodeRange& range, uint64_t address) {
  return address >= range.start && address < range.end;
}

std::optional<Instruction> decode_at(const Stretch& stretch, uint64_t address) {
  return decode(stretch.bytes.subspan(address - stretch.range.start), address);
}

using Instructions = std::map<uint64_t, Instruction>;

// The stretch read from front to back.
struct Reading {
  Instructions instructions = {};
  bool complete = false;  // every byte decodes
  bool indirect = false;  // has a jump to where only the run knows
};

Reading read_through(const Stretch& stretch) {
  Reading reading;
  uint64_t at = stretch.range.start;
  while (at < stretch.range.end) {
    const auto instruction = decode_at(stretch, at);
    if (!instruction) {
      ++at;  // only so that what looks like AES behind it is counted
      continue;
    }
    reading.indirect = reading.indirect || instruction->flow == Flow::kIndirectJump;
    reading.instructions.emplace_hint(reading.instructions.end(), at, *instruction);
    at += instruction->length;
  }
  uint64_t end = stretch.range.start;
  reading.complete = at == stretch.range.end && std::ranges::all_of(reading.instructions, [&](const auto& i) {
                       const bool adjacent = i.first == end;
                       end = i.first + i.second.length;
                       return adjacent;
                     });
  return reading;
}

bool is_consistent(const Stretch& stretch, const Reading& reading) {
  const auto starts = [&](uint64_t address) { return reading.instructions.contains(address); };
  return reading.complete && std::ranges::all_of(stretch.entries, starts) &&
         std::ranges::all_of(reading.instructions, [&](const auto& i) {
           const auto& target = i.second.target;
           return !target || !within(stretch.range, *target) || starts(*target);
         });
}

// Follows control flow from the entries.
class Explorer {
 public:
  explicit Explorer(const Stretch& stretch) : stretch_(stretch), pending_(stretch.entries) {}

  // What was reached; nothing when flow leads where no instruction is, or into the middle of one.
  std::optional<Instructions> explore() {
    while (!pending_.empty()) {
      const uint64_t address = pending_.back();
      pending_.pop_back();
      if (!run_from(address)) return std::nullopt;
    }
    return overlap() ? std::nullopt : std::optional(std::move(reached_));
  }

 private:
  // Until flow ends, leaves the stretch or meets what is reached already.
  bool run_from(uint64_t at) {
    while (within(stretch_.range, at) && !reached_.contains(at)) {
      const auto instruction = decode_at(stretch_, at);
      if (!instruction) return false;
      reached_.emplace(at, *instruction);
      if (instruction->target && within(stretch_.range, *instruction->target))
        pending_.push_back(*instruction->target);
      if (instruction->flow > Flow::kCall) return true;
      at += instruction->length;
    }
    return true;
  }

  bool overlap() const {
    uint64_t end = 0;
    for (const auto& [address, instruction] : reached_) {
      if (address < end) return true;
      end = address + instruction.length;
    }
    return false;
  }

  const Stretch& stretch_;
  std::vector<uint64_t> pending_;
  Instructions reached_;
};

AesSite site_at(const Stretch& stretch, uint64_t address, const Instruction& instruction) {
  AesSite site;
  site.address = address;
  site.instruction = instruction;
  site.form = *instruction.aes;
  std::ranges::copy(stretch.bytes.subspan(address - stretch.range.start, instruction.length),
                    site.bytes.begin());
  return site;
}

}  // namespace

Swept sweep(const Stretch& stretch) {
  const Reading reading = read_through(stretch);
  const auto reached = Explorer(stretch).explore();
  const bool take_all = reading.indirect && is_consistent(stretch, reading);
  Swept swept;
  if (reached && !take_all) {
    for (const auto& [address, instruction] : *reached)
      if (instruction.aes) swept.sites.push_back(site_at(stretch, address, instruction));
  }
  for (const auto& [address, instruction] : reading.instructions) {
    if (!instruction.aes) continue;
    if (take_all) {
      swept.sites.push_back(site_at(stretch, address, instruction));
    } else if (!reached || !reached->contains(address)) {
      ++swept.unproven;
    }
  }
  return swept;
}

std::vector<uint64_t> targets_outside(const Stretch& stretch) {
  std::vector<uint64_t> targets;
  uint64_t at = stretch.range.start;
  while (at < stretch.range.end) {
    const auto instruction = decode_at(stretch, at);
    if (!instruction) break;  // behind this, what is read may be anything
    if (instruction->target && !within(stretch.range, *instruction->target))
      targets.push_back(*instruction->target);
    at += instruction->length;
  }
  return targets;
}

}  // namespace cofre::witness
