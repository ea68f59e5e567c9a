// Which AES kernel to use. Any lane.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "crypto/aes/kernel.h"

namespace cofre::crypto {

// The kernels of this build, best first; not all of them run on this processor. The last is portable and
// always does.
std::span<const AesKernel* const> aes_kernels() noexcept;

// The best kernel for a processor with these features.
const AesKernel& best_aes_kernel(const CpuFeatures& features) noexcept;

// The kernel of that name. Throws Error kInvalidArgument, naming the choices, when there is none or a
// processor with these features cannot run it.
const AesKernel& aes_kernel_named(std::string_view name, const CpuFeatures& features);

// What the environment variable COFRE_AES says, whether or not there is such a kernel.
std::optional<std::string_view> forced_aes_kernel() noexcept;

// The kernel that the environment variable COFRE_AES names, else the best; decided at the first call that
// succeeds. Throws as aes_kernel_named.
const AesKernel& selected_aes_kernel();

}  // namespace cofre::crypto
