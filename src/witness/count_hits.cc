#include "witness/count_hits.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace cofre::witness {
namespace {

using Rounds = std::vector<const AesSite*>;

std::set<uint8_t> registers_of(const Rounds& rounds, size_t first, size_t count) {
  std::set<uint8_t> registers;
  for (size_t i = first; i < first + count; ++i) registers.insert(rounds[i]->instruction.destination);
  return registers;
}

// How many rounds from `first` on have one width and write to registers that are all different.
size_t different_registers(const Rounds& rounds, size_t first) {
  std::set<uint8_t> registers;
  for (size_t i = first; i < rounds.size(); ++i)
    if (rounds[i]->form.width_bits != rounds[first]->form.width_bits ||
        !registers.insert(rounds[i]->instruction.destination).second)
      break;
  return registers.size();
}

bool same_order(const Rounds& rounds, size_t first, size_t count) {
  for (size_t i = first; i < first + count; ++i)
    if (rounds[i]->instruction.destination != rounds[i + count]->instruction.destination) return false;
  return true;
}

// Whether `count` rounds from `first` on write to registers that those after them write to again, all of
// them.
bool repeats(const Rounds& rounds, size_t first, size_t count) {
  return first + 2 * count <= rounds.size() && different_registers(rounds, first + count) >= count &&
         registers_of(rounds, first, count) == registers_of(rounds, first + count, count);
}

// Blocks that are independent of each other stand in registers of their own, and the next round writes to the
// same ones. Compilers may order each round as they like: then it takes one round more to tell that from
// chance. One where it is not so regular.
size_t registers_together(const Rounds& rounds, size_t first) {
  for (size_t count = different_registers(rounds, first); count > 1; --count)
    if (repeats(rounds, first, count) &&
        (same_order(rounds, first, count) || repeats(rounds, first + count, count)))
      return count;
  return 1;
}

unsigned blocks_together(const Rounds& rounds) {
  size_t most = 0;
  for (size_t i = 0; i < rounds.size(); ++i)
    most = std::max(most, registers_together(rounds, i) * (rounds[i]->form.width_bits / 128));
  return static_cast<unsigned>(most);
}

FunctionReport report_function(const Module& module, uint32_t index) {
  const Function& function = module.code.functions[index];
  FunctionReport report = {.name = display_name(function), .named = !function.name.empty()};
  Rounds rounds;
  for (size_t i = 0; i < module.code.sites.size(); ++i) {
    const AesSite& site = module.code.sites[i];
    if (site.function != index) continue;
    SiteCount& count = report.forms[site.form];
    ++count.present;
    if (!module.hit[i]) continue;
    ++count.hit;
    if (site.form.is_round()) rounds.push_back(&site);
  }
  report.blocks_at_a_time = blocks_together(rounds);
  return report;
}

ModuleReport report_module(const Module& module) {
  ModuleReport report = {.path = module.code.path, .unread = module.unread};
  report.sites = {.hit = static_cast<size_t>(std::ranges::count(module.hit, true)),
                  .present = module.hit.size()};
  report.watched = static_cast<size_t>(std::ranges::count(module.watched, true));
  report.unproven = module.code.unproven;
  report.unbounded = module.code.unbounded;
  std::set<uint32_t> hit_functions;
  for (size_t i = 0; i < module.hit.size(); ++i)
    if (module.hit[i]) hit_functions.insert(module.code.sites[i].function);
  for (const uint32_t index : hit_functions) report.functions.push_back(report_function(module, index));
  return report;
}

bool says_something(const ModuleReport& report) {
  return report.sites.present != 0 || report.unproven != 0 || report.unbounded != 0 || !report.unread.empty();
}

}  // namespace

std::string display_name(const Function& function) {
  return function.name.empty() ? fmt::format("{:#x}", function.range.start) : function.name;
}

std::vector<ModuleReport> count_hits(const std::vector<std::shared_ptr<Module>>& modules) {
  std::vector<ModuleReport> reports;
  for (const auto& module : modules) {
    ModuleReport report = report_module(*module);
    if (says_something(report)) reports.push_back(std::move(report));
  }
  std::ranges::sort(reports, [](const ModuleReport& a, const ModuleReport& b) {
    return std::tie(a.sites.hit, a.sites.present, a.path) > std::tie(b.sites.hit, b.sites.present, b.path);
  });
  return reports;
}

}  // namespace cofre::witness
