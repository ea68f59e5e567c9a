#include "witness/count_hits.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace cofre::witness {
namespace {

// Registers that consecutive rounds write before one is written again, times the blocks in a register: a
// block's next round cannot begin before its last one ended, so independent ones stand between.
unsigned blocks_together(const std::vector<const AesSite*>& rounds) {
  unsigned most = 0;
  std::set<uint8_t> registers;
  const AesSite* before = nullptr;
  for (const AesSite* const site : rounds) {
    if (registers.contains(site->instruction.destination) ||
        (before != nullptr && before->form != site->form))
      registers.clear();
    registers.insert(site->instruction.destination);
    before = site;
    most = std::max(most, static_cast<unsigned>(registers.size()) * (site->form.width_bits / 128));
  }
  return most;
}

FunctionReport report_function(const Module& module, uint32_t index) {
  const Function& function = module.code.functions[index];
  FunctionReport report = {.name = display_name(function), .named = !function.name.empty()};
  std::vector<const AesSite*> rounds;
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
