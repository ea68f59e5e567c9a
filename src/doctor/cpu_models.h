// The processor models of QEMU and libvirt for x86: which of them have the instructions that AES needs. Any
// lane.
#pragma once

#include <optional>
#include <string_view>

namespace cofre::doctor {

struct ModelFeatures {
  bool aes = false;
  bool avx2 = false;
  bool vaes = false;

  bool operator==(const ModelFeatures&) const = default;
};

// By the model's name, "Skylake-Server-noTSX-IBRS", also with a version ("-v3"). Nothing: a model not known
// here.
std::optional<ModelFeatures> features_of_model(std::string_view name) noexcept;

}  // namespace cofre::doctor
