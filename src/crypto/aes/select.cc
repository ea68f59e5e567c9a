#include "crypto/aes/select.h"

#include <array>
#include <cstdlib>
#include <string>

#include "base/error.h"

namespace cofre::crypto {
namespace {

// Best first.
constexpr std::array kKernels = {
#if defined(__x86_64__)
    &kAesVaes512,
    &kAesVaes256,
    &kAesNi,
#elif defined(__aarch64__)
    &kAesArmv8,
#endif
    &kAesPortable,
};

// Kernels that this build lacks because they are for other processors.
struct KernelElsewhere {
  std::string_view name;
  std::string_view processors;
};
constexpr std::array kElsewhere = {
#if !defined(__x86_64__)
    KernelElsewhere{"vaes512", "x86-64"},
    KernelElsewhere{"vaes256", "x86-64"},
    KernelElsewhere{"aesni", "x86-64"},
#endif
#if !defined(__aarch64__)
    KernelElsewhere{"armv8", "64-bit Arm"},
#endif
};

std::string choices(const CpuFeatures& features) {
  std::string names;
  for (const AesKernel* kernel : kKernels) {
    if (!has_all(features, kernel->needs)) continue;
    if (!names.empty()) names += ", ";
    names += kernel->name;
  }
  return names;
}

}  // namespace

std::span<const AesKernel* const> aes_kernels() noexcept {
  return kKernels;
}

const AesKernel& best_aes_kernel(const CpuFeatures& features) noexcept {
  for (const AesKernel* kernel : kKernels)
    if (has_all(features, kernel->needs)) return *kernel;
  return kAesPortable;
}

const AesKernel& aes_kernel_named(std::string_view name, const CpuFeatures& features) {
  for (const AesKernel* kernel : kKernels) {
    if (kernel->name != name) continue;
    if (has_all(features, kernel->needs)) return *kernel;
    fail(ErrorKind::kInvalidArgument,
         "this processor cannot run the AES kernel {}: it lacks {}. It can run: {}", name,
         missing_features(features, kernel->needs), choices(features));
  }
  for (const KernelElsewhere& kernel : kElsewhere)
    if (kernel.name == name)
      fail(ErrorKind::kInvalidArgument,
           "this processor cannot run the AES kernel {}, which is for {}. It can run: {}", name,
           kernel.processors, choices(features));
  fail(ErrorKind::kInvalidArgument, "there is no AES kernel '{}'. This processor can run: {}", name,
       choices(features));
}

std::optional<std::string_view> forced_aes_kernel() noexcept {
  const char* forced = std::getenv("COFRE_AES");
  if (forced == nullptr) return std::nullopt;
  return forced;
}

const AesKernel& selected_aes_kernel() {
  static const AesKernel& selected = []() -> const AesKernel& {
    const auto forced = forced_aes_kernel();
    return forced ? aes_kernel_named(*forced, cpu_features()) : best_aes_kernel(cpu_features());
  }();
  return selected;
}

}  // namespace cofre::crypto
