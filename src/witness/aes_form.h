// The forms of the AES instructions: the operation, the encoding and the width of the register.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace cofre::witness {

enum class AesOperation : uint8_t { kEnc, kEncLast, kDec, kDecLast, kImc, kKeygenAssist };
enum class Encoding : uint8_t { kLegacy, kVex, kEvex };

struct AesForm {
  AesOperation operation = AesOperation::kEnc;
  Encoding encoding = Encoding::kLegacy;
  uint16_t width_bits = 128;

  auto operator<=>(const AesForm&) const = default;

  // A round of encryption or decryption; the others belong to the key schedule.
  bool is_round() const noexcept { return operation < AesOperation::kImc; }
  // More than AES-NI has: a 256- or 512-bit register, or the encoding of AVX-512.
  bool is_vaes() const noexcept { return width_bits > 128 || encoding == Encoding::kEvex; }
};

// "aesenc", "vaesenc": as assemblers write it.
std::string mnemonic(const AesForm& form);
// "legacy SSE", "VEX", "EVEX".
const char* encoding_name(Encoding encoding) noexcept;

}  // namespace cofre::witness
