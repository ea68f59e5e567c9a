// Arithmetic on integers that come from a disk, a socket or a user: it says when it would wrap.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace cofre {

template <std::unsigned_integral T>
constexpr std::optional<T> checked_add(T a, T b) noexcept {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
constexpr std::optional<T> checked_mul(T a, T b) noexcept {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Whether [offset, offset + length) lies within [0, limit), without wrapping.
constexpr bool range_within(uint64_t offset, uint64_t length, uint64_t limit) noexcept {
  return offset <= limit && length <= limit - offset;
}

// The alignments below are powers of two.
template <std::unsigned_integral T>
constexpr bool is_aligned(T value, std::type_identity_t<T> alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}

template <std::unsigned_integral T>
constexpr T align_down(T value, std::type_identity_t<T> alignment) noexcept {
  return value & ~(alignment - 1);
}

// Wraps near the type's maximum: callers bound `value` first.
template <std::unsigned_integral T>
constexpr T align_up(T value, std::type_identity_t<T> alignment) noexcept {
  return (value + (alignment - 1)) & ~(alignment - 1);
}

template <std::unsigned_integral T>
constexpr T div_ceil(T value, std::type_identity_t<T> divisor) noexcept {
  return value / divisor + (value % divisor != 0 ? 1 : 0);
}

}  // namespace cofre
