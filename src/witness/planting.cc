#include "witness/planting.h"

#include <algorithm>

#include "base/checked.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

uint64_t Planting::start() const noexcept {
  uint64_t first = ~uint64_t{0};
  for (const Segment& segment : module_->code.segments) first = std::min(first, segment.address);
  return bias_ + first;
}

uint64_t Planting::end() const noexcept {
  uint64_t last = 0;
  for (const Segment& segment : module_->code.segments)
    last = std::max(last, segment.address + segment.file_bytes);
  return bias_ + last;
}

PlantingLayout Planting::layout() const noexcept {
  const size_t sites = module_->code.sites.size();
  return {.code_bytes = align_up<uint64_t>(sites * kSlotBytes + kHookBytes, kPage),
          .flags_bytes = align_up<uint64_t>(sites + 1, kPage)};
}

void Planting::heal(const ProcessMemory& memory) const {
  for (const AesSite& site : module_->code.sites) {
    const uint64_t address = bias_ + site.address;
    JumpCode found;
    if (!memory.read(address, found)) return;
    const auto target = jump_target(found, address);
    SlotCode code;
    if (target && memory.read(*target, code) && is_slot_of(code, *target, site, address))
      memory.write(address, site.code().first(kJumpBytes));
  }
  const auto& hook_place = module_->code.loader_hook;
  JumpCode found;
  if (!hook_place || !memory.read(bias_ + hook_place->address, found)) return;
  const auto target = jump_target(found, bias_ + hook_place->address);
  HookCode code;
  if (target && memory.read(*target, code) && code == make_hook())
    memory.write(bias_ + hook_place->address, hook_place->original);
}

bool Planting::matches(const ProcessMemory& memory) const {
  return std::ranges::all_of(module_->code.sites, [&](const AesSite& site) {
    std::array<std::byte, kLongestInstruction> found;
    const Bytes there(found.data(), site.instruction.length);
    return memory.read(bias_ + site.address, there) && std::ranges::equal(there, site.code());
  });
}

bool Planting::write_slots(const ProcessMemory& memory) {
  std::vector<std::byte> code(layout().code_bytes, std::byte{0xcc});
  const auto& sites = module_->code.sites;
  for (size_t i = 0; i < sites.size(); ++i) {
    const auto made = make_slot(sites[i], bias_ + sites[i].address, slot(i), flag(i));
    jumps_[i] = made ? make_jump(bias_ + sites[i].address, slot(i)) : std::nullopt;
    if (made) std::ranges::copy(*made, code.begin() + static_cast<ptrdiff_t>(i * kSlotBytes));
  }
  std::ranges::copy(make_hook(), code.begin() + static_cast<ptrdiff_t>(sites.size() * kSlotBytes));
  return memory.write(place_, code);
}

bool Planting::plant(const ProcessMemory& memory, uint64_t place, bool may_hook) {
  place_ = place;
  flags_ = place + layout().code_bytes;
  jumps_.assign(module_->code.sites.size(), std::nullopt);
  hit_.assign(module_->code.sites.size(), false);
  if (!write_slots(memory)) return false;
  for (size_t i = 0; i < jumps_.size(); ++i)
    if (jumps_[i] && !plant_site(memory, i)) return false;
  if (!module_->code.loader_hook || !may_hook) return true;
  const LoaderHook& there = *module_->code.loader_hook;
  const auto jump = make_jump(bias_ + there.address, hook());
  JumpCode found;
  if (jump && memory.read(bias_ + there.address, found) && found == there.original &&
      memory.write(bias_ + there.address, *jump))
    hook_jump_ = jump;
  return true;
}

bool Planting::plant_site(const ProcessMemory& memory, size_t index) {
  if (!memory.write(bias_ + module_->code.sites[index].address, *jumps_[index])) return false;
  module_->watched[index] = true;
  return true;
}

bool Planting::is_there(const ProcessMemory& memory) const {
  for (size_t i = 0; i < jumps_.size(); ++i) {
    if (!jumps_[i]) continue;
    JumpCode found;
    return memory.read(bias_ + module_->code.sites[i].address, found) && found == *jumps_[i];
  }
  return true;
}

bool Planting::collect(const ProcessMemory& memory) {
  std::vector<std::byte> flags(hit_.size());
  if (place_ == 0 || !memory.read(flags_, flags)) return false;
  bool any = false;
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] == std::byte{0} || hit_[i]) continue;
    hit_[i] = true;
    module_->hit[i] = true;
    any = true;
  }
  return any;
}

// Only where the jump still is: what is there may have been unloaded, and something else be in its place.
void Planting::restore(const ProcessMemory& memory, size_t index) const {
  const AesSite& site = module_->code.sites[index];
  JumpCode found;
  if (jumps_[index] && memory.read(bias_ + site.address, found) && found == *jumps_[index])
    memory.write(bias_ + site.address, site.code().first(kJumpBytes));
}

void Planting::restore_hit(const ProcessMemory& memory) {
  for (size_t i = 0; i < hit_.size(); ++i) {
    if (!hit_[i] || !jumps_[i]) continue;
    restore(memory, i);
    jumps_[i].reset();
  }
}

void Planting::restore_all(const ProcessMemory& memory) {
  for (size_t i = 0; i < jumps_.size(); ++i) restore(memory, i);
  restore_hook(memory);
}

void Planting::restore_hook(const ProcessMemory& memory) {
  if (!hook_jump_) return;
  const LoaderHook& there = *module_->code.loader_hook;
  JumpCode found;
  if (memory.read(bias_ + there.address, found) && found == *hook_jump_)
    memory.write(bias_ + there.address, there.original);
  hook_jump_.reset();
}

bool Planting::is_hook_signal(uint64_t address) const noexcept {
  return hook_jump_ && address == hook() + kHookSignalOffset;
}

}  // namespace cofre::witness
