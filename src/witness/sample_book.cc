#include "witness/sample_book.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <tuple>

#include "witness/routine.h"
#include "witness/space.h"

namespace cofre::witness {
namespace {

std::vector<Mapping> read_mappings(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/maps");
  return parse_mappings({std::istreambuf_iterator<char>(file), {}});
}

constexpr size_t kMostOthers = 5;
constexpr uint64_t kLeastOther_percent = 2;

bool is_busier(const RoutineShare& a, const RoutineShare& b) {
  return std::tie(a.samples, a.function) > std::tie(b.samples, b.function);
}

// Of routines that are not known to be AES only those that matter.
void keep_busiest(std::vector<RoutineShare>& others, uint64_t samples) {
  std::ranges::sort(others, is_busier);
  std::erase_if(
      others, [&](const RoutineShare& share) { return share.samples * 100 < samples * kLeastOther_percent; });
  if (others.size() > kMostOthers) others.resize(kMostOthers);
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
  std::map<const Module*, RoutineFinder> finders;
  std::map<std::pair<std::string, std::string>, RoutineShare> shares;
  SampleReport report = {.method = method, .samples = samples_};
  for (const auto& [place, count] : counts_) {
    const ModuleCode& code = place.first->code;
    const Routine routine = finders.try_emplace(place.first.get(), code).first->second.at(place.second);
    if (!routine.named && !routine.is_aes) report.nameless_samples += count;
    if (routine.name.empty()) continue;
    RoutineShare& share = shares[{code.path, routine.name}];
    share = {code.path, routine.name, share.samples + count, routine.has_aes_instructions, routine.is_aes};
  }
  for (const auto& [name, share] : shares) (share.is_aes ? report.routines : report.others).push_back(share);
  std::ranges::sort(report.routines, is_busier);
  keep_busiest(report.others, samples_);
  return report;
}

}  // namespace cofre::witness
