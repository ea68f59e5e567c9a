// The jumps in one module of one process: planted, looked at, and taken out again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "witness/module_cache.h"
#include "witness/ptrace.h"
#include "witness/trampoline.h"

namespace cofre::witness {

// Memory of the process that the planting needs: first the slots and the hook, then the flags.
struct PlantingLayout {
  uint64_t code_bytes = 0;   // whole pages, read and executed
  uint64_t flags_bytes = 0;  // whole pages, read and written
};

// Addresses are the process's unless said otherwise. Whoever writes to code has stopped all threads.
class Planting {
 public:
  // `bias` is added to the file's addresses. Nothing is written yet.
  Planting(std::shared_ptr<Module> module, uint64_t bias) : module_(std::move(module)), bias_(bias) {}

  uint64_t bias() const noexcept { return bias_; }
  const std::shared_ptr<Module>& module() const noexcept { return module_; }
  // What has to be near to the slots: the module's code.
  uint64_t start() const noexcept;
  uint64_t end() const noexcept;

  PlantingLayout layout() const noexcept;
  // Puts back what a witness that was killed left behind: jumps to slots that hold the very instruction.
  void heal(const ProcessMemory& memory) const;
  // Whether memory holds what the file says at every site: the file is the one that is mapped.
  bool matches(const ProcessMemory& memory) const;
  // Writes the slots at `place`, then the jumps to them, and the hook if the process may execute it. False
  // when the memory does not take it.
  bool plant(const ProcessMemory& memory, uint64_t place, bool may_hook);
  // Whether the jumps are (still) there: a library that was unloaded and loaded again has none.
  bool is_there(const ProcessMemory& memory) const;
  // Marks the sites that were hit in the module. True when one is newly hit here.
  bool collect(const ProcessMemory& memory);
  // Puts the instructions back: those that were hit, or all. The slots stay: a thread may be in one.
  void restore_hit(const ProcessMemory& memory);
  void restore_all(const ProcessMemory& memory);
  void restore_hook(const ProcessMemory& memory);
  bool has_hook() const noexcept { return hook_jump_.has_value(); }
  // Whether a thread that stands at `address` has just told that libraries were mapped.
  bool is_hook_signal(uint64_t address) const noexcept;

 private:
  uint64_t slot(size_t index) const noexcept { return place_ + index * kSlotBytes; }
  uint64_t flag(size_t index) const noexcept { return flags_ + index; }
  uint64_t hook() const noexcept { return slot(module_->code.sites.size()); }
  bool plant_site(const ProcessMemory& memory, size_t index);
  bool write_slots(const ProcessMemory& memory);
  void restore(const ProcessMemory& memory, size_t index) const;

  std::shared_ptr<Module> module_;
  uint64_t bias_;
  uint64_t place_ = 0;  // 0: not planted
  uint64_t flags_ = 0;
  std::vector<std::optional<JumpCode>> jumps_ = {};  // by site; nothing where there is no jump (any more)
  std::vector<bool> hit_ = {};
  std::optional<JumpCode> hook_jump_ = {};
};

}  // namespace cofre::witness
