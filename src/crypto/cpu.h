// What this processor can run and the operating system saves across a context switch. The only feature
// detection.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace cofre::crypto {

// A vector feature is true only when the registers it needs are enabled by the operating system too (XCR0).
struct CpuFeatures {
  bool sse41 = false;
  bool pclmulqdq = false;
  bool aes = false;  // AES-NI, or the AES instructions of Armv8: one 128-bit block an instruction
  bool avx = false;
  bool avx2 = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool vaes = false;  // AES on 256-bit registers, on 512-bit ones together with avx512f
  bool vpclmulqdq = false;

  bool operator==(const CpuFeatures&) const = default;
};

struct CpuFeatureName {
  std::string_view name;  // as /proc/cpuinfo writes it
  bool CpuFeatures::* member;
};
inline constexpr std::array<CpuFeatureName, 11> kCpuFeatureNames = {{
    {"sse4_1", &CpuFeatures::sse41},
    {"pclmulqdq", &CpuFeatures::pclmulqdq},
    {"aes", &CpuFeatures::aes},
    {"avx", &CpuFeatures::avx},
    {"avx2", &CpuFeatures::avx2},
    {"avx512f", &CpuFeatures::avx512f},
    {"avx512bw", &CpuFeatures::avx512bw},
    {"avx512dq", &CpuFeatures::avx512dq},
    {"avx512vl", &CpuFeatures::avx512vl},
    {"vaes", &CpuFeatures::vaes},
    {"vpclmulqdq", &CpuFeatures::vpclmulqdq},
}};

// What the processor (or the hypervisor in its place) offers, and which registers the operating system saves.
struct CpuOffer {
  CpuFeatures features;    // whether or not their registers are saved
  bool ymm_saved = false;  // XCR0: 256-bit registers
  bool zmm_saved = false;  // 512-bit registers and masks

  bool operator==(const CpuOffer&) const = default;
};

// Detected once, at the first call. Any lane.
const CpuOffer& cpu_offer() noexcept;
// The features of an offer that a program may use.
CpuFeatures usable_features(const CpuOffer& offer) noexcept;
// Those of this processor.
const CpuFeatures& cpu_features() noexcept;

// Whether `have` holds every feature of `need`.
bool has_all(const CpuFeatures& have, const CpuFeatures& need) noexcept;

// The features that `need` has and `have` lacks, "aes, vaes"; empty when none.
std::string missing_features(const CpuFeatures& have, const CpuFeatures& need);

}  // namespace cofre::crypto
