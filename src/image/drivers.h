// The drivers that are no formats: their names, and who opens them. Any lane.
#pragma once

#include <string>
#include <string_view>

namespace cofre::image {

enum class DriverKind {
  kStorage,  // where bytes rest: storage_drivers.h
  kFilter,   // over another node: filter_drivers.h
};

struct Driver {
  std::string_view name;
  DriverKind kind;
  std::string_view child;  // the prefix of the options of the node below; empty: there is none
};

// Null for what is none, formats included.
const Driver* find_driver(std::string_view name) noexcept;
inline bool is_driver(std::string_view name) noexcept {
  return find_driver(name) != nullptr;
}
// All, and the formats, for messages.
std::string driver_names();

}  // namespace cofre::image
