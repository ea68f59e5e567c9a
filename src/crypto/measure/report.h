// The whole comparison of AES on this machine in one measurement: every kernel asked for, in every case,
// beside the limit of its instructions, OpenSSL and libgcrypt; and the table of it for people.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "crypto/measure/speed.h"

namespace cofre::crypto {

struct LimitFigure {
  const AesKernel* kernel = nullptr;
  CipherAlgorithm algorithm = CipherAlgorithm::aes256;
  Speed speed;
};

// Who did it, a kernel's name or that of a library, and how fast.
struct SpeedFigure {
  std::string by;
  Speed speed;
  double share_of_limit = 0;  // 1: as fast as the kernel's instructions alone; 0 where there is no limit
};

struct SpeedRow {
  SpeedCase what;
  std::vector<SpeedFigure> figures;  // the kernels in their order, then the libraries
};

struct SpeedReport {
  std::vector<LimitFigure> limits;
  std::vector<SpeedRow> rows;
};

// AES-128 and AES-256 in XTS and CBC (with plain64 and ESSIV), both directions, sectors of 512 and 4096
// bytes, runs from one sector to 1 MiB.
std::vector<SpeedCase> all_speed_cases();

// The kernels must run on this processor. Takes seconds.
SpeedReport measure_aes(const std::vector<const AesKernel*>& kernels, const std::vector<SpeedCase>& cases,
                        const SpeedEffort& effort, const SpeedProgress& progress = {});

// Tables in GB/s (10^9 bytes a second) with a legend.
std::string speed_text(const SpeedReport& report);

std::string_view direction_name(Direction direction) noexcept;

}  // namespace cofre::crypto
