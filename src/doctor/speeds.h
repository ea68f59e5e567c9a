// How fast AES is on one core of this host: Cofre's kernels, and OpenSSL and libgcrypt beside them. Any lane.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "doctor/finding.h"

namespace cofre::doctor {

// Sectors of 512 bytes, as images have them. Bytes a second; the best of several turns.
struct AesSpeed {
  double xts256_encrypt = 0;  // AES-256-XTS, plain64
  double xts256_decrypt = 0;
  double cbc128_encrypt = 0;  // AES-128-CBC, plain64
  double cbc128_decrypt = 0;
};

struct KernelSpeed {
  std::string by;           // "vaes512"; "OpenSSL 3.0.17"
  bool is_library = false;  // not one of Cofre's kernels
  bool in_use = false;      // the kernel that Cofre runs
  AesSpeed speed;
};

// Every kernel that the processor runs, best first, then the libraries. `each`: how long each of four
// measurements takes, about. `in_use`: the kernel's name.
std::vector<KernelSpeed> measure_aes_speeds(const std::string& in_use, std::chrono::milliseconds each);

// Findings from the comparison.
void judge_speeds(const std::vector<KernelSpeed>& speeds, Section& section);
Json speeds_json(const std::vector<KernelSpeed>& speeds);

// "13.2 GB/s", "680 MB/s": powers of ten.
std::string speed_text(double bytes_per_second);

}  // namespace cofre::doctor
