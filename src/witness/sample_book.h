// Keeps account of samples: which routine of which file each address belongs to.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "witness/module_cache.h"
#include "witness/report.h"

namespace cofre::witness {

class SampleBook {
 public:
  explicit SampleBook(ModuleCache& modules) : modules_(modules) {}

  void add(pid_t pid, uint64_t address);
  SampleReport report(const std::string& method) const;

 private:
  struct Place {
    std::shared_ptr<Module> module;
    uint64_t address;  // as the file has it
  };
  std::optional<Place> place_of(pid_t pid, uint64_t address);
  std::optional<Place> place_in(const std::vector<Mapping>& mappings, pid_t pid, uint64_t address);

  ModuleCache& modules_;
  std::map<pid_t, std::vector<Mapping>> mappings_ = {};
  std::map<std::pair<std::shared_ptr<Module>, uint64_t>, uint64_t> counts_ = {};  // by place
  uint64_t samples_ = 0;
};

}  // namespace cofre::witness
