// One address space (a process, and its children while they share it): what is mapped, what was planted.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "witness/module_cache.h"
#include "witness/planting.h"
#include "witness/remote_map.h"

namespace cofre::witness {

class Space {
 public:
  // Throws Error.
  Space(pid_t pid, ModuleCache& modules);
  // The space of a process forked off one: a copy, jumps and all. Throws Error.
  Space(pid_t child, const Space& parent);
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  // Looks at what is mapped and reads the files that are new. Needs no thread stopped. True when there is
  // something to plant.
  bool look();
  // Plants what look() found; all threads are stopped, and `tid` so that it can make calls. False when that
  // thread ended meanwhile: `met` says how.
  bool plant(pid_t tid, StoppedAt where, std::optional<Stop>& met);
  // Whether the process gave itself a seccomp filter while a hook is in place that the filter may forbid.
  // Needs no thread stopped.
  bool has_new_filter();
  // Takes such hooks out; all threads are stopped.
  void heed_filter();
  // Notes the hits. True when there are new ones, which restore_hit() would take out.
  bool collect();
  // All threads are stopped.
  void restore_hit();
  void restore_all();
  bool is_hook_signal(uint64_t address) const noexcept;

  // Anonymous memory with code, as a just-in-time compiler makes it: not looked into.
  bool has_generated_code() const noexcept { return has_generated_code_; }
  // Modules that could not be planted, each a sentence.
  const std::set<std::string>& complaints() const noexcept { return complaints_; }
  // What is mapped, as of now, for whoever has addresses to explain.
  std::vector<Mapping> mappings() const { return parse_mappings(memory_.mappings()); }

 private:
  void consider(const Mapping& mapping);
  bool is_ours(const Mapping& mapping) const;
  // Room for a stub, in the rest of a page behind code; 0 when there is none.
  uint64_t stub_place();
  void forget_unloaded();
  bool has_hook() const noexcept;
  bool may_hook(pid_t tid);
  RemoteMemory wanted_for(const Planting& planting) const;
  // The address of new memory; 0 when the system refused it.
  uint64_t allocate(pid_t tid, StoppedAt& where, const Planting& planting, std::optional<Stop>& met);

  pid_t pid_;
  ModuleCache& modules_;
  ProcessMemory memory_;
  std::vector<Mapping> mappings_ = {};
  std::vector<Planting> planted_ = {};
  std::vector<Planting> to_plant_ = {};
  std::set<std::pair<const Module*, uint64_t>> refused_ = {};  // not tried again
  struct Place {
    uint64_t start = 0;
    uint64_t code_bytes = 0;
  };
  // Memory that the process gave us, by module and bias: for when the module is loaded there again.
  std::map<std::pair<const Module*, uint64_t>, Place> places_ = {};
  std::set<std::string> complaints_ = {};
  bool has_generated_code_ = false;
  int filters_ = 0;  // seccomp's, as of the last look
};

// Where a file that is mapped so lies, relative to its own addresses; nothing when the mapping is not one of
// its executable segments.
std::optional<uint64_t> load_bias(const ModuleCode& code, const Mapping& mapping);

}  // namespace cofre::witness
