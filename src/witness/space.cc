#include "witness/space.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLastErrno = 4095;

bool is_error(uint64_t value) {
  return value >= ~kLastErrno + 1;
}

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

Space::Space(pid_t pid, ModuleCache& modules)
    : pid_(pid), modules_(modules), memory_(pid), system_call_(find_system_call(memory_)) {}

Space::Space(pid_t child, const Space& parent)
    : pid_(child),
      modules_(parent.modules_),
      memory_(child),
      system_call_(parent.system_call_),
      planted_(parent.planted_),
      refused_(parent.refused_),
      places_(parent.places_) {}

bool Space::look() {
  mappings_ = mappings();
  to_plant_.clear();
  forget_unloaded();
  for (const Mapping& mapping : mappings_) consider(mapping);
  return !to_plant_.empty();
}

void Space::forget_unloaded() {
  std::erase_if(planted_, [&](const Planting& planting) { return !planting.is_there(memory_); });
}

void Space::consider(const Mapping& mapping) {
  if (!mapping.executable) return;
  // Our own slots have no file either.
  const bool ours = std::ranges::any_of(
      planted_, [&](const Planting& planting) { return planting.is_slot(mapping.start); });
  if (!mapping.is_file()) {
    has_generated_code_ = has_generated_code_ || (mapping.path.empty() && !ours);
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

uint64_t Space::allocate(pid_t tid, StoppedAt& where, const Planting& planting, std::optional<Stop>& met) {
  constexpr uint64_t kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  uint64_t& known = places_[{planting.module().get(), planting.bias()}];
  if (known != 0) return known;
  const PlantingLayout layout = planting.layout();
  const uint64_t length = layout.code_bytes + layout.flags_bytes;
  const uint64_t place = free_place(mappings_, planting.start(), planting.end(), length);
  const std::string& path = planting.module()->code.path;
  if (place == 0) {
    complaints_.insert(fmt::format("'{}': no memory is free within 2 GiB of it", path));
    return 0;
  }
  const auto map = [&](uint64_t address, uint64_t bytes, int protection) {
    const RemoteResult result =
        remote_call(tid, where, system_call_, SYS_mmap,
                    {address, bytes, static_cast<uint64_t>(protection), kFlags, ~uint64_t{0}, 0});
    met = result.met;
    where = StoppedAt::kInterrupt;
    if (result.value && is_error(*result.value))
      complaints_.insert(fmt::format("'{}': the process may not map executable memory: {}", path,
                                     std::strerror(static_cast<int>(-*result.value))));
    return result.value && *result.value == address;
  };
  if (!map(place, layout.code_bytes, PROT_READ | PROT_EXEC) ||
      !map(place + layout.code_bytes, layout.flags_bytes, PROT_READ | PROT_WRITE))
    return 0;
  mappings_ = mappings();
  known = place;
  return place;
}

bool Space::plant(pid_t tid, StoppedAt where, std::optional<Stop>& met) {
  for (Planting& planting : to_plant_) {
    const auto refuse = [&] { refused_.insert({planting.module().get(), planting.bias()}); };
    planting.heal(memory_);
    if (!planting.matches(memory_)) {
      complaints_.insert(
          fmt::format("'{}': memory differs from the file (was it replaced?)", planting.module()->code.path));
      refuse();
      continue;
    }
    const uint64_t place = system_call_ != 0 ? allocate(tid, where, planting, met) : 0;
    if (met) return false;
    if (place == 0) {
      refuse();
      continue;
    }
    if (!planting.plant(memory_, place)) {
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
