// What a sweep found, with the machine it was found on: as JSON, and as tables for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tool/bench/sweep.h"

namespace cofre::tool {

struct SweepReport {
  SweepRequest request;
  std::vector<SweepFigure> figures;
  std::string directory;          // where the images were
  std::string file_system;        // of it
  uint64_t needs_bytes = 0;       // that the images were allowed to take
  std::string peer_version;       // empty: there was none
  nlohmann::ordered_json crypto;  // what `bench crypto --output json` prints; null: not measured
};

nlohmann::ordered_json report_json(const SweepReport& report);
// GB/s (10^9 bytes a second), or requests a second; a table an operation.
std::string report_text(const SweepReport& report);

}  // namespace cofre::tool
