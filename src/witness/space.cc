#include "witness/space.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "witness/process_facts.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kPage = 4096;
bool has_work(const ModuleCode& code) {
  return !code.sites.empty() || code.loader_hook;
}

}  // namespace

std::optional<uint64_t> load_bias(const ModuleCode& code, const Mapping& mapping) {
  for (const Segment& segment : code.segments) {
    const uint64_t first = align_down(segment.file_offset, kPage);
    if (!segment.executable || mapping.file_offset < first ||
        mapping.file_offset >= segment.file_offset + segment.file_bytes)
      continue;
    return mapping.start - (mapping.file_offset - first) - align_down(segment.address, kPage);
  }
  return std::nullopt;
}

Space::Space(pid_t pid, ModuleCache& modules) : pid_(pid), modules_(modules), memory_(pid) {}

Space::Space(pid_t child, const Space& parent)
    : pid_(child),
      modules_(parent.modules_),
      memory_(child),
      planted_(parent.planted_),
      refused_(parent.refused_),
      places_(parent.places_),
      filters_(parent.filters_) {}

bool Space::look() {
  collect();  // what is unloaded cannot be asked any more
  mappings_ = mappings();
  to_plant_.clear();
  forget_unloaded();
  for (const Mapping& mapping : mappings_) consider(mapping);
  return !to_plant_.empty();
}

void Space::forget_unloaded() {
  std::erase_if(planted_, [&](const Planting& planting) { return !planting.is_there(memory_); });
}

bool Space::is_ours(const Mapping& mapping) const {
  return std::ranges::any_of(places_, [&](const auto& entry) {
    const Place& place = entry.second;
    return mapping.start >= place.start && mapping.end <= place.start + place.code_bytes;
  });
}

void Space::consider(const Mapping& mapping) {
  if (!mapping.executable) return;
  if (!mapping.is_file()) {
    const bool anonymous = mapping.path.empty() || mapping.path.starts_with("[anon:");  // named by prctl(2)
    has_generated_code_ = has_generated_code_ || (anonymous && !is_ours(mapping));
    return;
  }
  const auto module = modules_.at(pid_, mapping);
  const auto bias = load_bias(module->code, mapping);
  if (!bias || !has_work(module->code) || refused_.contains({module.get(), *bias})) return;
  const auto same = [&](const Planting& p) { return p.module() == module && p.bias() == *bias; };
  if (std::ranges::any_of(planted_, same) || std::ranges::any_of(to_plant_, same)) return;
  if (!mapping.is_private) {
    complaints_.insert(
        fmt::format("'{}' is mapped shared, so that writing to it would change the file", module->code.path));
    return;
  }
  to_plant_.emplace_back(module, *bias);
}

uint64_t Space::stub_place() {
  for (const Mapping& mapping : mappings_) {
    if (!mapping.executable || !mapping.is_file() || !mapping.is_private) continue;
    const auto module = modules_.at(pid_, mapping);
    const auto bias = load_bias(module->code, mapping);
    if (!bias) continue;
    uint64_t end = 0;  // of what the file puts into this mapping
    for (const Segment& segment : module->code.segments)
      if (*bias + segment.address < mapping.end)
        end = std::max(end, *bias + segment.address + segment.memory_bytes);
    if (end > mapping.start && end + kStubBytes <= mapping.end) return end;
  }
  return 0;
}

bool Space::has_hook() const noexcept {
  return std::ranges::any_of(planted_, &Planting::has_hook);
}

bool Space::may_hook(pid_t tid) {
  const auto objection = seccomp_objection(tid, hook_calls(pid_));
  if (objection)
    complaints_.insert(
        fmt::format("libraries that are loaded later are noticed up to 250 ms late: {}", *objection));
  return !objection;
}

bool Space::has_new_filter() {
  if (!has_hook()) return false;
  const int now = seccomp_filters_of(pid_).value_or(seccomp_mode_of(pid_));
  return std::exchange(filters_, now) != now;
}

void Space::heed_filter() {
  if (may_hook(pid_)) return;
  for (Planting& planting : planted_) planting.restore_hook(memory_);
}

RemoteMemory Space::wanted_for(const Planting& planting) const {
  const PlantingLayout layout = planting.layout();
  return {.start =
              free_place(mappings_, planting.start(), planting.end(), layout.code_bytes + layout.flags_bytes),
          .code_bytes = layout.code_bytes,
          .flags_bytes = layout.flags_bytes};
}

uint64_t Space::allocate(pid_t tid, StoppedAt& where, const Planting& planting, std::optional<Stop>& met) {
  Place& known = places_[{planting.module().get(), planting.bias()}];
  if (known.start != 0) return known.start;
  const std::string& path = planting.module()->code.path;
  const RemoteMemory wanted = wanted_for(planting);
  const uint64_t stub = stub_place();
  if (wanted.start == 0 || stub == 0) {
    complaints_.insert(fmt::format("'{}': no memory is free {}", path,
                                   stub == 0 ? "for a stub behind any code" : "within 2 GiB of it"));
    return 0;
  }
  if (const auto objection = seccomp_objection(tid, stub_calls(wanted))) {
    complaints_.insert(fmt::format(
        "'{}' was not watched, and left as it is: {}. --sample needs nothing of it", path, *objection));
    return 0;
  }
  const RemoteResult result = remote_map(tid, where, memory_, stub, wanted);
  met = result.met;
  where = StoppedAt::kInterrupt;
  if (result.errno_value != 0)
    complaints_.insert(fmt::format("'{}': the process may not map executable memory: {}", path,
                                   std::strerror(result.errno_value)));
  if (!result.mapped) return 0;
  mappings_ = mappings();
  known = {wanted.start, wanted.code_bytes};
  return wanted.start;
}

bool Space::plant(pid_t tid, StoppedAt where, std::optional<Stop>& met) {
  for (Planting& planting : to_plant_) {
    const auto refuse = [&] { refused_.insert({planting.module().get(), planting.bias()}); };
    planting.heal(memory_);
    if (!planting.matches(memory_)) {
      // A part of it that is mapped once more elsewhere, as JavaScript engines do, is nothing to tell of.
      if (std::ranges::find(planted_, planting.module(), &Planting::module) == planted_.end())
        complaints_.insert(fmt::format("'{}': memory differs from the file (was it replaced?)",
                                       planting.module()->code.path));
      refuse();
      continue;
    }
    const uint64_t place = allocate(tid, where, planting, met);
    if (met) return false;
    if (place == 0) {
      refuse();
      continue;
    }
    if (!planting.plant(memory_, place, planting.module()->code.loader_hook && may_hook(tid))) {
      planting.restore_all(memory_);
      complaints_.insert(
          fmt::format("'{}': the system does not let its code be written", planting.module()->code.path));
      refuse();
      continue;
    }
    planted_.push_back(planting);
  }
  to_plant_.clear();
  return true;
}

bool Space::collect() {
  bool any = false;
  for (Planting& planting : planted_) any = planting.collect(memory_) || any;
  return any;
}

void Space::restore_hit() {
  for (Planting& planting : planted_) planting.restore_hit(memory_);
}

void Space::restore_all() {
  for (Planting& planting : planted_) planting.restore_all(memory_);
}

bool Space::is_hook_signal(uint64_t address) const noexcept {
  return std::ranges::any_of(planted_, [&](const Planting& p) { return p.is_hook_signal(address); });
}

}  // namespace cofre::witness
