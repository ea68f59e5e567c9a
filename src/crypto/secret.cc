#include "crypto/secret.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

namespace cofre::crypto {
namespace {

// Blocks of 64 bytes to 2 KiB are cut from pages, one class a page, so that thousands of keys fit the few
// megabytes a process may lock. Larger ones get a mapping of their own.
constexpr size_t kSmallestBlock = 64;
constexpr size_t kLargestBlock = 2048;
constexpr size_t kClasses = std::bit_width(kLargestBlock / kSmallestBlock);
constexpr size_t kRegionPages = 16;

size_t page_bytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t round_to_pages(size_t bytes) {
  return (bytes + page_bytes() - 1) & ~(page_bytes() - 1);
}

// Readable and writable pages with an unreadable one before and one after.
std::byte* map_guarded(size_t bytes) {
  const size_t guard = page_bytes();
  void* mapping = mmap(nullptr, bytes + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  std::byte* start = static_cast<std::byte*>(mapping) + guard;
  if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping, bytes + 2 * guard);
    throw std::bad_alloc();
  }
  // Neither is essential: a process without the right to lock memory still works.
  static_cast<void>(mlock(start, bytes));
  static_cast<void>(madvise(start, bytes, MADV_DONTDUMP));
  return start;
}

void unmap_guarded(std::byte* start, size_t bytes) noexcept {
  munlock(start, bytes);
  munmap(start - page_bytes(), bytes + 2 * page_bytes());
}

size_t class_of(size_t block_bytes) {
  return static_cast<size_t>(std::bit_width(block_bytes / kSmallestBlock)) - 1;
}

class Arena {
 public:
  // `block_bytes` is one of the classes. The block is zeroed.
  std::byte* take(size_t block_bytes) {
    const std::lock_guard lock(mutex_);
    FreeList& list = lists_[class_of(block_bytes)];
    if (list.blocks.empty()) cut_page(list, block_bytes);
    std::byte* block = list.blocks.back();
    list.blocks.pop_back();
    return block;
  }

  // The block is wiped already.
  void give_back(std::byte* block, size_t block_bytes) noexcept {
    const std::lock_guard lock(mutex_);
    // cut_page reserved room for every block there is, so this does not allocate.
    lists_[class_of(block_bytes)].blocks.push_back(block);
  }

 private:
  struct FreeList {
    std::vector<std::byte*> blocks;
    size_t cut = 0;  // blocks that exist, free or not
  };

  void cut_page(FreeList& list, size_t block_bytes) {
    const size_t count = page_bytes() / block_bytes;
    list.blocks.reserve(list.cut + count);
    if (pages_left_ == 0) {
      next_page_ = map_guarded(secret_region_bytes());
      pages_left_ = kRegionPages;
    }
    for (size_t i = 0; i < count; ++i) list.blocks.push_back(next_page_ + i * block_bytes);
    list.cut += count;
    next_page_ += page_bytes();
    --pages_left_;
  }

  std::mutex mutex_;
  std::array<FreeList, kClasses> lists_;
  std::byte* next_page_ = nullptr;
  size_t pages_left_ = 0;
};

// Never destroyed: secrets with static lifetime may outlive every other object.
Arena& arena() {
  static Arena* const the_arena = new Arena;
  return *the_arena;
}

}  // namespace

size_t secret_region_bytes() noexcept {
  return kRegionPages * page_bytes();
}

void wipe(Bytes bytes) noexcept {
  if (!bytes.empty()) explicit_bzero(bytes.data(), bytes.size());
}

bool equal_constant_time(ConstBytes a, ConstBytes b) noexcept {
  if (a.size() != b.size()) return false;
  const volatile std::byte* left = a.data();
  const volatile std::byte* right = b.data();
  std::byte difference{0};
  for (size_t i = 0; i < a.size(); ++i) difference |= left[i] ^ right[i];
  return difference == std::byte{0};
}

SecretBytes::SecretBytes(size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  if (size_bytes <= kLargestBlock) {
    capacity_ = std::max(std::bit_ceil(size_bytes), kSmallestBlock);
    data_ = arena().take(capacity_);
  } else {
    if (size_bytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
    capacity_ = round_to_pages(size_bytes);
    data_ = map_guarded(capacity_);
  }
}

SecretBytes SecretBytes::copy_of(ConstBytes bytes) {
  SecretBytes copy(bytes.size());
  if (!bytes.empty()) std::memcpy(copy.data_, bytes.data(), bytes.size());
  return copy;
}

void SecretBytes::truncate(size_t size_bytes) noexcept {
  if (size_bytes >= size_) return;
  wipe(bytes().subspan(size_bytes));
  size_ = size_bytes;
}

void SecretBytes::release() noexcept {
  if (data_ == nullptr) return;
  wipe({data_, capacity_});
  if (capacity_ <= kLargestBlock)
    arena().give_back(data_, capacity_);
  else
    unmap_guarded(data_, capacity_);
  data_ = nullptr;
  size_ = 0;
  capacity_ = 0;
}

}  // namespace cofre::crypto
