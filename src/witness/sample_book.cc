#include "witness/sample_book.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <tuple>

#include "witness/count_hits.h"
#include "witness/elf_file.h"
#include "witness/space.h"

namespace cofre::witness {
namespace {

std::vector<Mapping> read_mappings(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/maps");
  return parse_mappings({std::istreambuf_iterator<char>(file), {}});
}

bool sounds_like_aes(std::string name) {
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name.contains("aes") || name.contains("rijndael");
}

struct Routine {
  std::string name;
  bool has_aes_instructions = false;
};

Routine routine_at(const ModuleCode& code, uint64_t address) {
  const std::string name = code.symbols != nullptr ? code.symbols->name_at(address) : std::string();
  const auto is_it = [&](const Function& function) {
    return name.empty()
               ? function.name.empty() && address >= function.range.start && address < function.range.end
               : function.name == name;
  };
  const auto found = std::ranges::find_if(code.functions, is_it);
  if (found == code.functions.end()) return {name, false};
  return {display_name(*found), true};
}

}  // namespace

std::optional<SampleBook::Place> SampleBook::place_in(const std::vector<Mapping>& mappings, pid_t pid,
                                                      uint64_t address) {
  for (const Mapping& mapping : mappings) {
    if (address < mapping.start || address >= mapping.end || !mapping.is_file()) continue;
    const auto module = modules_.at(pid, mapping);
    const auto bias = load_bias(module->code, mapping);
    if (bias) return Place{module, address - *bias};
  }
  return std::nullopt;
}

std::optional<SampleBook::Place> SampleBook::place_of(pid_t pid, uint64_t address) {
  const auto place = place_in(mappings_[pid], pid, address);
  if (place) return place;
  mappings_[pid] = read_mappings(pid);  // loaded since, or executed anew
  return place_in(mappings_[pid], pid, address);
}

void SampleBook::add(pid_t pid, uint64_t address) {
  ++samples_;
  const auto place = place_of(pid, address);
  if (place) ++counts_[{place->module, place->address}];
}

SampleReport SampleBook::report(const std::string& method) const {
  std::map<std::pair<std::string, std::string>, RoutineShare> routines;
  for (const auto& [place, count] : counts_) {
    const ModuleCode& code = place.first->code;
    const Routine routine = routine_at(code, place.second);
    if (!routine.has_aes_instructions && !sounds_like_aes(routine.name)) continue;
    RoutineShare& share = routines[{code.path, routine.name}];
    share = {code.path, routine.name, share.samples + count, routine.has_aes_instructions};
  }
  SampleReport report = {.method = method, .samples = samples_};
  for (const auto& [name, share] : routines) report.routines.push_back(share);
  std::ranges::sort(report.routines, [](const RoutineShare& a, const RoutineShare& b) {
    return std::tie(a.samples, a.function) > std::tie(b.samples, b.function);
  });
  return report;
}

}  // namespace cofre::witness
