#include "base/aligned_buffer.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace cofre {
namespace {

// Power-of-two classes from 4 KiB to 4 MiB are kept for reuse: a fresh page costs a fault and a wipe each
// time, which is half of what a copy costs. Larger blocks go back to the system.
constexpr size_t kSmallestClass = 12;
constexpr size_t kLargestClass = 22;
constexpr size_t kKeptPerClass = 64;
constexpr size_t kKeptBytesPerClass = 16u << 20;

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kReuse = false;  // let the sanitizer see every buffer's life
#else
constexpr bool kReuse = true;
#endif

struct FreeBlock {
  FreeBlock* next;
};

// Trivially destructible, so that buffers may still be freed while a thread, or the program, ends.
struct FreeLists {
  std::array<FreeBlock*, kLargestClass + 1> head;
  std::array<size_t, kLargestClass + 1> count;
  bool closed;
};
constinit thread_local FreeLists free_lists{};

struct CloseAtThreadEnd {
  CloseAtThreadEnd() noexcept = default;
  CloseAtThreadEnd(const CloseAtThreadEnd&) = delete;
  CloseAtThreadEnd& operator=(const CloseAtThreadEnd&) = delete;
  ~CloseAtThreadEnd() {
    free_lists.closed = true;
    for (FreeBlock*& head : free_lists.head) {
      while (FreeBlock* block = head) {
        head = block->next;
        std::free(block);
      }
    }
  }
  void touch() const noexcept {}
};
thread_local CloseAtThreadEnd close_at_thread_end;

size_t class_of(size_t capacity) {
  return static_cast<size_t>(std::bit_width(capacity - 1));
}

bool is_kept_class(size_t size_class) {
  return kReuse && size_class >= kSmallestClass && size_class <= kLargestClass;
}

size_t capacity_for(size_t size_bytes) {
  if (size_bytes <= kBufferAlignment) return kBufferAlignment;
  if (size_bytes <= size_t{1} << kLargestClass) return std::bit_ceil(size_bytes);
  if (size_bytes > PTRDIFF_MAX - kBufferAlignment) throw std::bad_alloc();
  return (size_bytes + kBufferAlignment - 1) & ~(kBufferAlignment - 1);
}

std::byte* take_kept(size_t size_class) {
  FreeBlock* block = free_lists.head[size_class];
  if (block == nullptr) return nullptr;
  free_lists.head[size_class] = block->next;
  --free_lists.count[size_class];
  return reinterpret_cast<std::byte*>(block);
}

bool keep(std::byte* data, size_t size_class, size_t capacity) noexcept {
  size_t& count = free_lists.count[size_class];
  if (free_lists.closed || count >= kKeptPerClass || (count + 1) * capacity > kKeptBytesPerClass)
    return false;
  close_at_thread_end.touch();
  free_lists.head[size_class] = new (data) FreeBlock{free_lists.head[size_class]};
  ++count;
  return true;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size_bytes) : size_(size_bytes), capacity_(capacity_for(size_bytes)) {
  const size_t size_class = class_of(capacity_);
  if (is_kept_class(size_class)) data_ = take_kept(size_class);
  if (data_ == nullptr) data_ = static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, capacity_));
  if (data_ == nullptr) throw std::bad_alloc();
}

void AlignedBuffer::release() noexcept {
  if (data_ == nullptr) return;
  const size_t size_class = class_of(capacity_);
  if (!is_kept_class(size_class) || !keep(data_, size_class, capacity_)) std::free(data_);
  data_ = nullptr;
}

}  // namespace cofre
