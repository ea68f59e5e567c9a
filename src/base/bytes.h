// Views of raw bytes, and the loads and stores of on-disk integers. Reads and writes never need alignment.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace cofre {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

template <std::unsigned_integral T>
T load_native(const void* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <std::unsigned_integral T>
T load_be(const void* from) noexcept {
  T value = load_native<T>(from);
  if constexpr (std::endian::native == std::endian::little && sizeof(T) > 1) value = std::byteswap(value);
  return value;
}

template <std::unsigned_integral T>
T load_le(const void* from) noexcept {
  T value = load_native<T>(from);
  if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
  return value;
}

template <std::unsigned_integral T>
void store_be(void* to, T value) noexcept {
  if constexpr (std::endian::native == std::endian::little && sizeof(T) > 1) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof value);
}

template <std::unsigned_integral T>
void store_le(void* to, T value) noexcept {
  if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof value);
}

// Whether the first bytes are `magic`.
inline bool starts_with(ConstBytes bytes, std::string_view magic) noexcept {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

// True when every byte is zero. Vectorized; stops at the first block that is not.
bool is_zero(ConstBytes bytes) noexcept;

}  // namespace cofre
