// The files whose code the witnessed processes execute, each read once, with what was seen of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "witness/code_map.h"
#include "witness/mappings.h"

namespace cofre::witness {

struct Module {
  ModuleCode code;
  std::vector<bool> hit;      // of each site: some process executed it
  std::vector<bool> watched;  // of each site: some process had a jump there
  std::string unread = {};    // why the file could not be read
};

class ModuleCache {
 public:
  // The module that `mapping` of process `pid` shows. A file that cannot be read gives a module without
  // sites, and says why in `unread`.
  std::shared_ptr<Module> at(pid_t pid, const Mapping& mapping);

  std::vector<std::shared_ptr<Module>> all() const;

 private:
  std::map<std::pair<std::string, uint64_t>, std::shared_ptr<Module>> modules_;  // by device and inode
};

}  // namespace cofre::witness
