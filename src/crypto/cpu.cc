#include "crypto/cpu.h"

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace cofre::crypto {
namespace {

#if defined(__x86_64__)
bool bit(uint32_t word, int number) {
  return ((word >> number) & 1) != 0;
}

// XCR0: which register sets the operating system saves. Only there when CPUID says OSXSAVE.
uint64_t saved_state_bits() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Intel SDM volume 2, CPUID leaves 1 and 7.
CpuFeatures detect() {
  constexpr uint64_t kAvxState = 0x6;      // XMM and YMM
  constexpr uint64_t kAvx512State = 0xe6;  // and the mask registers, ZMM
  CpuFeatures features;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return features;
  features.pclmulqdq = bit(ecx, 1);
  features.sse41 = bit(ecx, 19);
  features.aes = bit(ecx, 25);
  const uint64_t saved = bit(ecx, 27) ? saved_state_bits() : 0;
  const bool ymm = (saved & kAvxState) == kAvxState;
  const bool zmm = (saved & kAvx512State) == kAvx512State;
  features.avx = ymm && bit(ecx, 28);
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return features;
  features.avx2 = ymm && bit(ebx, 5);
  features.avx512f = zmm && bit(ebx, 16);
  features.avx512dq = zmm && bit(ebx, 17);
  features.avx512bw = zmm && bit(ebx, 30);
  features.avx512vl = zmm && bit(ebx, 31);
  features.vaes = ymm && bit(ecx, 9);
  features.vpclmulqdq = ymm && bit(ecx, 10);
  return features;
}
#elif defined(__aarch64__) && defined(__linux__)
// The kernel's word: AT_HWCAP (Linux, Documentation/arch/arm64/elf_hwcaps.rst).
CpuFeatures detect() {
  CpuFeatures features;
  features.aes = (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
  return features;
}
#else
CpuFeatures detect() {
  return {};
}
#endif

}  // namespace

const CpuFeatures& cpu_features() noexcept {
  static const CpuFeatures features = detect();
  return features;
}

bool has_all(const CpuFeatures& have, const CpuFeatures& need) noexcept {
  return std::ranges::all_of(kCpuFeatureNames,
                             [&](const CpuFeatureName& f) { return have.*f.member || !(need.*f.member); });
}

std::string missing_features(const CpuFeatures& have, const CpuFeatures& need) {
  std::string missing;
  for (const CpuFeatureName& feature : kCpuFeatureNames) {
    if (have.*feature.member || !(need.*feature.member)) continue;
    if (!missing.empty()) missing += ", ";
    missing += feature.name;
  }
  return missing;
}

}  // namespace cofre::crypto
