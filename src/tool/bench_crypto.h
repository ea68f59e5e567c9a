// What `bench crypto` shares with other measurements.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "crypto/measure/report.h"

namespace cofre::tool {

// The AES kernels that this processor can run.
std::vector<const crypto::AesKernel*> usable_kernels();

// What `bench crypto --output json` prints.
nlohmann::ordered_json speed_json(const crypto::SpeedReport& report);

}  // namespace cofre::tool
