#include "export/vhost_user_blk/packed_inflight.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"

namespace cofre::vhost {
namespace {

constexpr uint16_t kAreaVersion = 1;
constexpr size_t kVersionAt = 8;
constexpr size_t kSizeAt = 10;
constexpr size_t kFreeAt = 12;
constexpr size_t kOldFreeAt = 14;
constexpr size_t kUsedAt = 16;
constexpr size_t kOldUsedAt = 18;
constexpr size_t kWrapAt = 20;
constexpr size_t kOldWrapAt = 21;
constexpr size_t kEntriesAt = 32;
constexpr size_t kEntryBytes = 32;
// In an entry.
constexpr size_t kNextAt = 2;
constexpr size_t kLastAt = 4;
constexpr size_t kNumberAt = 6;
constexpr size_t kOrderAt = 8;
constexpr size_t kIdAt = 16;
constexpr size_t kFlagsAt = 18;
constexpr size_t kLengthAt = 20;
constexpr size_t kAddressAt = 24;

constexpr uint16_t kAvailableFlag = 1 << 7;
constexpr uint16_t kUsedFlag = 1 << 15;

// This process may end at any moment: stores become visible in the order in which they are written down.
void store16(std::byte* at, uint16_t value) noexcept {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at)).store(value, std::memory_order_release);
}
void store8(std::byte* at, bool value) noexcept {
  std::atomic_ref<uint8_t>(*reinterpret_cast<uint8_t*>(at)).store(value ? 1 : 0, std::memory_order_release);
}
uint16_t load16(const std::byte* at) noexcept {
  return load_le<uint16_t>(at);
}
bool load8(const std::byte* at) noexcept {
  return load_native<uint8_t>(at) != 0;
}

[[noreturn]] void fail_area(const char* what) {
  fail(ErrorKind::kCorrupt, "the in-flight area of a packed ring is damaged: {}", what);
}

}  // namespace

size_t PackedInflight::area_bytes(uint16_t ring_size) noexcept {
  return kEntriesAt + kEntryBytes * ring_size;
}

PackedInflight::PackedInflight(std::byte* area, uint16_t ring_size)
    : area_(area),
      size_(ring_size),
      fresh_(load16(area + kVersionAt) == 0),
      next_(ring_size),
      last_(ring_size) {
  batch_.reserve(ring_size);
  if (fresh_) return;
  const uint16_t version = load16(area + kVersionAt);
  const uint16_t size = load16(area + kSizeAt);
  if (version != kAreaVersion || size != ring_size)
    fail(ErrorKind::kCorrupt, "the in-flight area is of version {} for {} descriptors, not {} for {}",
         version, size, kAreaVersion, ring_size);
}

std::byte* PackedInflight::entry(uint16_t slot) const noexcept {
  return area_ + kEntriesAt + size_t{slot} * kEntryBytes;
}

// ---- after another server ----

uint16_t PackedInflight::batch_start_index() const {
  const uint16_t index = load16(area_ + kOldUsedAt);
  if (index >= size_) fail_area("its used index is none");
  return index;
}

// `flags`: of the first descriptor of the last batch, in the ring. While they say that it is available, the
// driver was not told of the batch: it is undone.
void PackedInflight::finish_or_undo_batch(uint16_t flags) {
  const bool wrap = load8(area_ + kOldWrapAt);
  const bool told = ((flags & kAvailableFlag) != 0) != wrap || ((flags & kUsedFlag) != 0) == wrap;
  const bool in_batch =
      load16(area_ + kUsedAt) != load16(area_ + kOldUsedAt) || load8(area_ + kWrapAt) != wrap;
  if (in_batch && told) {
    store16(area_ + kOldFreeAt, load16(area_ + kFreeAt));
    store16(area_ + kOldUsedAt, load16(area_ + kUsedAt));
    store8(area_ + kOldWrapAt, load8(area_ + kWrapAt));
  } else {
    store16(area_ + kFreeAt, load16(area_ + kOldFreeAt));
    store16(area_ + kUsedAt, load16(area_ + kOldUsedAt));
    store8(area_ + kWrapAt, wrap);
  }
}

std::vector<bool> PackedInflight::free_entries() const {
  std::vector<bool> found(size_);
  for (uint16_t slot = free_; slot != size_; slot = next_[slot]) {
    if (slot > size_ || found[slot]) fail_area("the list of free entries has no end");
    found[slot] = true;
  }
  return found;
}

// `taken`: entries that belong to something already; those of this request are added.
PackedInflight::Interrupted PackedInflight::interrupted(uint16_t slot, std::vector<bool>& taken) const {
  const uint16_t number = load16(entry(slot) + kNumberAt);
  Interrupted found = {.slot = slot, .descriptors = {}};
  uint16_t last = slot;
  for (uint16_t at = slot; found.descriptors.size() < number; at = next_[at]) {
    if (at >= size_ || taken[at]) fail_area("the descriptors of requests run into each other");
    taken[at] = true;
    last = at;
    const std::byte* const from = entry(at);
    found.descriptors.push_back({.address = load_le<uint64_t>(from + kAddressAt),
                                 .length = load_le<uint32_t>(from + kLengthAt),
                                 .id = load16(from + kIdAt),
                                 .flags = load16(from + kFlagsAt)});
  }
  if (number == 0 || last_[slot] != last)
    fail_area("a request has another number of descriptors than it says");
  return found;
}

// Everything that is followed later is read once, and checked: each entry is free, or part of one request.
std::vector<PackedInflight::Interrupted> PackedInflight::recover_entries(PackedIndex& used) {
  if (fresh_) {
    start(used);
    return {};
  }
  used = {.index = batch_start_index(), .wrap = load8(area_ + kOldWrapAt)};
  for (uint16_t slot = 0; slot < size_; ++slot) {
    next_[slot] = load16(entry(slot) + kNextAt);
    last_[slot] = load16(entry(slot) + kLastAt);
  }
  free_ = load16(area_ + kFreeAt);
  const std::vector<bool> is_free = free_entries();
  std::vector<bool> taken = is_free;
  std::vector<std::pair<uint64_t, Interrupted>> found;
  for (uint16_t slot = 0; slot < size_; ++slot) {
    if (is_free[slot]) store8(entry(slot), false);
    if (load8(entry(slot)))
      found.emplace_back(load_le<uint64_t>(entry(slot) + kOrderAt), interrupted(slot, taken));
  }
  if (std::ranges::count(taken, false) > 0) fail_area("entries are neither free nor in flight");
  std::ranges::sort(found, {}, [](const auto& one) { return one.first; });
  if (!found.empty()) order_ = found.back().first + 1;
  std::vector<Interrupted> requests;
  for (auto& [order, request] : found) requests.push_back(std::move(request));
  return requests;
}

void PackedInflight::start(PackedIndex used) {
  std::memset(area_, 0, area_bytes(size_));
  store16(area_ + kSizeAt, size_);
  for (uint16_t slot = 0; slot < size_; ++slot) {
    next_[slot] = static_cast<uint16_t>(slot + 1);
    store16(entry(slot) + kNextAt, next_[slot]);
  }
  note_batch(used);
  note_published();
  store16(area_ + kVersionAt, kAreaVersion);
}

// ---- while requests come and go ----

uint16_t PackedInflight::note_taken(const std::vector<PackedDescriptor>& descriptors) noexcept {
  const uint16_t slot = free_;
  uint16_t last = slot;
  for (const PackedDescriptor& descriptor : descriptors) {
    last = free_;
    std::byte* const at = entry(last);
    store_le(at + kAddressAt, descriptor.address);
    store_le(at + kLengthAt, descriptor.length);
    store_le(at + kFlagsAt, descriptor.flags);
    store_le(at + kIdAt, descriptor.id);
    free_ = next_[last];
  }
  last_[slot] = last;
  std::byte* const head = entry(slot);
  store_le(head + kLastAt, last);
  store_le(head + kNumberAt, static_cast<uint16_t>(descriptors.size()));
  store_le(head + kOrderAt, order_++);
  store8(head, true);
  store16(area_ + kFreeAt, free_);
  store16(area_ + kOldFreeAt, free_);  // now it counts
  return slot;
}

void PackedInflight::note_used(uint16_t slot) noexcept {
  const uint16_t last = last_[slot];
  next_[last] = free_;
  store16(entry(last) + kNextAt, free_);
  free_ = slot;
  store16(area_ + kFreeAt, free_);
  batch_.push_back(slot);
}

void PackedInflight::note_batch(PackedIndex used) noexcept {
  store16(area_ + kUsedAt, used.index);
  store8(area_ + kWrapAt, used.wrap);
}

void PackedInflight::note_published() noexcept {
  for (const uint16_t slot : batch_) store8(entry(slot), false);
  store16(area_ + kOldFreeAt, free_);
  store16(area_ + kOldUsedAt, load16(area_ + kUsedAt));
  store8(area_ + kOldWrapAt, load8(area_ + kWrapAt));
  batch_.clear();
}

}  // namespace cofre::vhost
