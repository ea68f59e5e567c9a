#include "base/aligned_buffer.h"

#include <array>
#include <bit>
#include <cstdlib>
#include <new>
#include <vector>

namespace cofre {
namespace {

// Power-of-two classes from 4 KiB to 4 MiB are kept for reuse: a fresh page costs a fault and a wipe each time,
// which is half of what a copy costs. Larger blocks go back to the system.
constexpr size_t kSmallestClass = 12;
constexpr size_t kLargestClass = 22;
constexpr size_t kKeptPerClass = 16;
constexpr size_t kKeptBytesPerClass = 16u << 20;

struct FreeLists {
  std::array<std::vector<std::byte*>, kLargestClass + 1> by_class;
  ~FreeLists() {
    for (auto& blocks : by_class)
      for (std::byte* block : blocks) std::free(block);
  }
};

FreeLists& free_lists() {
  thread_local FreeLists lists;
  return lists;
}

size_t class_of(size_t capacity) { return static_cast<size_t>(std::bit_width(capacity - 1)); }

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size_bytes) : size_(size_bytes) {
  capacity_ = size_bytes <= kBufferAlignment ? kBufferAlignment
              : size_bytes <= (size_t{1} << kLargestClass)
                  ? std::bit_ceil(size_bytes)
                  : (size_bytes + kBufferAlignment - 1) & ~(kBufferAlignment - 1);
  const size_t size_class = class_of(capacity_);
  if (size_class >= kSmallestClass && size_class <= kLargestClass) {
    auto& blocks = free_lists().by_class[size_class];
    if (!blocks.empty()) {
      data_ = blocks.back();
      blocks.pop_back();
      return;
    }
  }
  data_ = static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, capacity_));
  if (data_ == nullptr) throw std::bad_alloc();
}

void AlignedBuffer::release() noexcept {
  if (data_ == nullptr) return;
  const size_t size_class = class_of(capacity_);
  if (size_class >= kSmallestClass && size_class <= kLargestClass) {
    auto& blocks = free_lists().by_class[size_class];
    if (blocks.size() < kKeptPerClass && (blocks.size() + 1) * capacity_ <= kKeptBytesPerClass) {
      blocks.push_back(data_);
      data_ = nullptr;
      return;
    }
  }
  std::free(data_);
  data_ = nullptr;
}

}  // namespace cofre
