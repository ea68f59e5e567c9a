// From the modules of a run to the part of the report about them.
#pragma once

#include <memory>
#include <vector>

#include "witness/module_cache.h"
#include "witness/report.h"

namespace cofre::witness {

// Those in which AES instructions are, may be, or could not be looked for; most hits first.
std::vector<ModuleReport> count_hits(const std::vector<std::shared_ptr<Module>>& modules);

// The function's name, or the address that stands for one.
std::string display_name(const Function& function);

}  // namespace cofre::witness
