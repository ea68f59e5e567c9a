// What the crypto tests share: hexadecimal text, the kernels that run here, keys at random.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/test_seed.h"
#include "crypto/aes/select.h"
#include "crypto/cipher_spec.h"

namespace cofre::crypto {

// Blanks between the digits do not matter.
inline std::vector<std::byte> from_hex(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<std::byte> bytes;
  int high = -1;
  for (const char c : text) {
    if (c == ' ') continue;
    if (high < 0) {
      high = digit(c);
    } else {
      bytes.push_back(static_cast<std::byte>(high * 16 + digit(c)));
      high = -1;
    }
  }
  return bytes;
}

inline std::string to_hex(ConstBytes bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<size_t>(byte >> 4)];
    text += kDigits[std::to_integer<size_t>(byte & std::byte{15})];
  }
  return text;
}

inline ConstBytes bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::vector<const AesKernel*> kernels_here() {
  std::vector<const AesKernel*> kernels;
  for (const AesKernel* kernel : aes_kernels())
    if (has_all(cpu_features(), kernel->needs)) kernels.push_back(kernel);
  return kernels;
}

inline const uint8_t* octets(const std::byte* bytes) {
  return reinterpret_cast<const uint8_t*>(bytes);
}
inline uint8_t* octets(std::byte* bytes) {
  return reinterpret_cast<uint8_t*>(bytes);
}

}  // namespace cofre::crypto
