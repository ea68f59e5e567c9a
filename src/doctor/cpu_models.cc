#include "doctor/cpu_models.h"

#include <algorithm>
#include <array>

namespace cofre::doctor {
namespace {

struct Model {
  std::string_view name;
  ModelFeatures features;
};

constexpr ModelFeatures kNothing = {};
constexpr ModelFeatures kAes = {.aes = true};
constexpr ModelFeatures kAesAvx2 = {.aes = true, .avx2 = true};
constexpr ModelFeatures kAll = {.aes = true, .avx2 = true, .vaes = true};

// What QEMU says of its models (query-cpu-model-expansion) up to version 7.2, and libvirt's src/cpu_map of
// the later ones (10 and 11). tests/peers holds the table against the QEMU and the libvirt that are
// installed.
constexpr std::array kModels = {
    Model{"486", kNothing},
    Model{"athlon", kNothing},
    Model{"Broadwell", kAesAvx2},
    Model{"Cascadelake-Server", kAesAvx2},
    Model{"ClearwaterForest", kAll},
    Model{"Conroe", kNothing},
    Model{"Cooperlake", kAesAvx2},
    Model{"core2duo", kNothing},
    Model{"coreduo", kNothing},
    Model{"cpu64-rhel5", kNothing},
    Model{"cpu64-rhel6", kNothing},
    Model{"Denverton", kAes},
    Model{"Dhyana", {.avx2 = true}},
    Model{"DiamondRapids", kAll},
    Model{"EPYC", kAesAvx2},
    Model{"EPYC-Genoa", kAll},
    Model{"EPYC-Milan", kAesAvx2},
    Model{"EPYC-Milan-v2", kAll},
    Model{"EPYC-Milan-v3", kAll},
    Model{"EPYC-Rome", kAesAvx2},
    Model{"EPYC-Turin", kAll},
    Model{"GraniteRapids", kAll},
    Model{"Haswell", kAesAvx2},
    Model{"Icelake-Client", kAll},
    Model{"Icelake-Server", kAll},
    Model{"IvyBridge", kAes},
    Model{"KnightsMill", kAesAvx2},
    Model{"kvm32", kNothing},
    Model{"kvm64", kNothing},
    Model{"n270", kNothing},
    Model{"Nehalem", kNothing},
    Model{"Opteron_G1", kNothing},
    Model{"Opteron_G2", kNothing},
    Model{"Opteron_G3", kNothing},
    Model{"Opteron_G4", kAes},
    Model{"Opteron_G5", kAes},
    Model{"Penryn", kNothing},
    Model{"pentium", kNothing},
    Model{"pentium2", kNothing},
    Model{"pentium3", kNothing},
    Model{"pentiumpro", kNothing},
    Model{"phenom", kNothing},
    Model{"qemu32", kNothing},
    Model{"qemu64", kNothing},
    Model{"SandyBridge", kAes},
    Model{"SapphireRapids", kAll},
    Model{"SierraForest", kAll},
    Model{"Skylake-Client", kAesAvx2},
    Model{"Skylake-Server", kAesAvx2},
    Model{"Snowridge", kAes},
    Model{"Westmere", kAes},
    Model{"YongFeng", kAesAvx2},
};

std::optional<ModelFeatures> find(std::string_view name) noexcept {
  const auto found = std::ranges::find(kModels, name, &Model::name);
  if (found == kModels.end()) return std::nullopt;
  return found->features;
}

bool is_version(std::string_view part) noexcept {
  return part.size() > 1 && part[0] == 'v' &&
         part.find_first_not_of("0123456789", 1) == std::string_view::npos;
}

}  // namespace

std::optional<ModelFeatures> features_of_model(std::string_view name) noexcept {
  // Variants that differ in fixes and TSX only.
  for (;;) {
    if (const auto features = find(name)) return features;
    const size_t dash = name.rfind('-');
    if (dash == std::string_view::npos) return std::nullopt;
    const std::string_view last = name.substr(dash + 1);
    if (last != "IBRS" && last != "IBPB" && last != "noTSX" && !is_version(last)) return std::nullopt;
    name = name.substr(0, dash);
  }
}

}  // namespace cofre::doctor
