#include "witness/routine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "witness/count_hits.h"
#include "witness/elf_file.h"

namespace cofre::witness {
namespace {

bool sounds_like_aes(std::string name) {
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name.contains("aes") || name.contains("rijndael");
}

const Function* function_at(const ModuleCode& code, const std::string& name, uint64_t address) {
  const auto found = std::ranges::find_if(code.functions, [&](const Function& function) {
    return name.empty()
               ? function.name.empty() && address >= function.range.start && address < function.range.end
               : function.name == name;
  });
  return found != code.functions.end() ? &*found : nullptr;
}

}  // namespace

RoutineFinder::RoutineFinder(const ModuleCode& code) : code_(code) {
  if (code.symbols == nullptr) return;
  for (const CodeRange& range : fde_ranges(code.symbols->elf())) ranges_[range.start] = range.end;
  for (const Symbol& symbol : code.symbols->functions())
    if (symbol.length_bytes != 0 && sounds_like_aes(symbol.name))
      note_callees({symbol.address, symbol.end()}, symbol.name);
}

void RoutineFinder::note_callees(const CodeRange& caller, const std::string& name) {
  const ConstBytes bytes = code_at(*code_.symbols, code_.segments, caller);
  for (size_t at = 0; at < bytes.size();) {
    const auto instruction = decode(bytes.subspan(at), caller.start + at);
    if (!instruction) return;
    if (instruction->flow == Flow::kCall && instruction->target) callers_.emplace(*instruction->target, name);
    at += instruction->length;
  }
}

Routine RoutineFinder::nameless_at(uint64_t address) const {
  auto range = ranges_.upper_bound(address);
  if (range == ranges_.begin() || address >= (--range)->second) return {};
  // At its very start: the procedure linkage table is one range, and leads to everything.
  const auto caller = callers_.find(range->first);
  if (caller == callers_.end()) return {.name = fmt::format("{:#x}", range->first)};
  return {.name = fmt::format("{:#x}, called by {}", range->first, caller->second), .is_aes = true};
}

Routine RoutineFinder::at(uint64_t address) const {
  if (code_.symbols == nullptr) return {};
  const std::string name = code_.symbols->name_at(address);
  if (const Function* const function = function_at(code_, name, address))
    return {.name = display_name(*function),
            .named = !name.empty(),
            .is_aes = true,
            .has_aes_instructions = true};
  if (name.empty()) return nameless_at(address);
  return {.name = name, .named = true, .is_aes = sounds_like_aes(name)};
}

}  // namespace cofre::witness
