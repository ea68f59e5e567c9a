#include "witness/aes_form.h"

#include <array>

namespace cofre::witness {

std::string mnemonic(const AesForm& form) {
  constexpr std::array kNames = {"aesenc", "aesenclast", "aesdec", "aesdeclast", "aesimc", "aeskeygenassist"};
  const std::string name = kNames[static_cast<size_t>(form.operation)];
  return form.encoding == Encoding::kLegacy ? name : "v" + name;
}

const char* encoding_name(Encoding encoding) noexcept {
  switch (encoding) {
    case Encoding::kLegacy:
      return "legacy SSE";
    case Encoding::kVex:
      return "VEX";
    case Encoding::kEvex:
      return "EVEX";
  }
  return "";
}

}  // namespace cofre::witness
