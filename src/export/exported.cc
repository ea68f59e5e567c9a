#include "export/exported.h"

#include <algorithm>

#include "base/error.h"

namespace cofre::exporting {

void ExportTable::add(std::shared_ptr<const Export> added) {
  const std::lock_guard lock(mutex_);
  for (const auto& known : exports_)
    if (known->name == added->name)
      fail(ErrorKind::kExists, "there are two exports named '{}': give each a name of its own", added->name);
  exports_.push_back(std::move(added));
}

void ExportTable::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::erase_if(exports_, [&](const auto& known) { return known->name == name; });
}

std::shared_ptr<const Export> ExportTable::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(exports_, [&](const auto& known) { return known->name == name; });
  return found != exports_.end() ? *found : nullptr;
}

std::vector<std::shared_ptr<const Export>> ExportTable::all() const {
  const std::lock_guard lock(mutex_);
  return exports_;
}

}  // namespace cofre::exporting
