// Memory for keys and passphrases: locked in RAM where the system allows it, left out of core dumps, between
// guard pages, wiped before it is given back.
//
// Any lane. A SecretBytes belongs to one owner; the arena below it is shared and takes a short lock.
#pragma once

#include <cstddef>
#include <utility>

#include "base/bytes.h"

namespace cofre::crypto {

// Overwrites `bytes` with zeroes; the compiler may not leave it out.
void wipe(Bytes bytes) noexcept;

// Whether both hold the same bytes. The time depends on the lengths only.
bool equal_constant_time(ConstBytes a, ConstBytes b) noexcept;

// What small secrets (up to 2 KiB) lock at a time: the first one, and others when that is full.
size_t secret_region_bytes() noexcept;

// Owns bytes that start zeroed, at an address that is a multiple of 64. When the limit on locked memory
// (RLIMIT_MEMLOCK) is reached the memory is used unlocked. Throws std::bad_alloc.
class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(size_t size_bytes);
  static SecretBytes copy_of(ConstBytes bytes);

  SecretBytes(SecretBytes&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  SecretBytes& operator=(SecretBytes&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      capacity_ = std::exchange(other.capacity_, 0);
    }
    return *this;
  }
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() { release(); }

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  Bytes bytes() noexcept { return {data_, size_}; }
  ConstBytes bytes() const noexcept { return {data_, size_}; }

  // Keeps the first `size_bytes` bytes and wipes the others; more than there are changes nothing.
  void truncate(size_t size_bytes) noexcept;

 private:
  void release() noexcept;

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace cofre::crypto
