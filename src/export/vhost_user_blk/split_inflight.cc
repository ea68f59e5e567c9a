#include "export/vhost_user_blk/split_inflight.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/bytes.h"
#include "base/error.h"

namespace cofre::vhost {
namespace {

constexpr uint16_t kAreaVersion = 1;
constexpr size_t kVersionAt = 8;
constexpr size_t kSizeAt = 10;
constexpr size_t kBatchHeadAt = 12;
constexpr size_t kUsedIndexAt = 14;
constexpr size_t kEntriesAt = 16;
constexpr size_t kEntryBytes = 16;
constexpr size_t kNextAt = 6;  // in an entry
constexpr size_t kOrderAt = 8;

// This process may end at any moment: stores become visible in the order in which they are written down.
void store16(std::byte* at, uint16_t value) noexcept {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at)).store(value, std::memory_order_release);
}
void store_flag(std::byte* at, bool value) noexcept {
  std::atomic_ref<uint8_t>(*reinterpret_cast<uint8_t*>(at)).store(value ? 1 : 0, std::memory_order_release);
}

}  // namespace

size_t SplitInflight::area_bytes(uint16_t ring_size) noexcept {
  return kEntriesAt + kEntryBytes * ring_size;
}

SplitInflight::SplitInflight(std::byte* area, uint16_t ring_size)
    : area_(area), size_(ring_size), fresh_(load_le<uint16_t>(area + kVersionAt) == 0) {
  batch_.reserve(ring_size);
  if (fresh_) {
    std::memset(area, 0, area_bytes(ring_size));
    store16(area + kSizeAt, ring_size);
    return;
  }
  const auto version = load_le<uint16_t>(area + kVersionAt);
  const auto size = load_le<uint16_t>(area + kSizeAt);
  if (version != kAreaVersion || size != ring_size)
    fail(ErrorKind::kCorrupt, "the in-flight area is of version {} for {} descriptors, not {} for {}",
         version, size, kAreaVersion, ring_size);
}

std::byte* SplitInflight::entry(uint16_t head) const noexcept {
  return area_ + kEntriesAt + size_t{head} * kEntryBytes;
}

// The driver knows of the last batch, but the server died before it could take note of that.
void SplitInflight::forget_last_batch(uint16_t count) {
  uint16_t head = load_le<uint16_t>(area_ + kBatchHeadAt);
  for (uint32_t i = 0; i < std::min<uint32_t>(count, size_); ++i) {
    if (head >= size_) fail(ErrorKind::kCorrupt, "the in-flight area names descriptor {} of {}", head, size_);
    store_flag(entry(head), false);
    head = load_le<uint16_t>(entry(head) + kNextAt);
  }
}

std::vector<uint16_t> SplitInflight::recover(uint16_t used_index) {
  if (!fresh_) forget_last_batch(static_cast<uint16_t>(used_index - load_le<uint16_t>(area_ + kUsedIndexAt)));
  store16(area_ + kUsedIndexAt, used_index);
  if (fresh_) store16(area_ + kVersionAt, kAreaVersion);

  std::vector<std::pair<uint64_t, uint16_t>> found;
  for (uint16_t head = 0; head < size_; ++head) {
    if (load_native<uint8_t>(entry(head)) == 0) continue;
    found.emplace_back(load_le<uint64_t>(entry(head) + kOrderAt), head);
  }
  std::ranges::sort(found);
  if (!found.empty()) order_ = found.back().first + 1;
  std::vector<uint16_t> heads;
  for (const auto& [order, head] : found) heads.push_back(head);
  return heads;
}

void SplitInflight::note_taken(uint16_t head) noexcept {
  std::byte* const at = entry(head);
  store_le(at + kOrderAt, order_++);
  store_flag(at, true);
}

void SplitInflight::note_used(uint16_t head) noexcept {
  store16(entry(head) + kNextAt, load_le<uint16_t>(area_ + kBatchHeadAt));
  store16(area_ + kBatchHeadAt, head);
  batch_.push_back(head);
}

void SplitInflight::note_published(uint16_t used_index) noexcept {
  for (const uint16_t head : batch_) store_flag(entry(head), false);
  store16(area_ + kUsedIndexAt, used_index);
  batch_.clear();
}

}  // namespace cofre::vhost
