#include "format/qcow2/dirty_bitmap.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <new>

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kWordBits = 64;

// Bits [from, to) of a word.
uint64_t word_mask(uint64_t from, uint64_t to) noexcept {
  const uint64_t below_to = to == kWordBits ? UINT64_MAX : (uint64_t{1} << to) - 1;
  return below_to & ~((uint64_t{1} << from) - 1);
}

}  // namespace

DirtyBitmap::DirtyBitmap(uint64_t disk_bytes, unsigned granularity_bits)
    : disk_bytes_(disk_bytes), granularity_bits_(granularity_bits), words_(make_words(bits())) {}

DirtyBitmap::Words DirtyBitmap::make_words(uint64_t bits) {
  const uint64_t count = div_ceil(bits, kWordBits);
  Words words(static_cast<uint64_t*>(std::calloc(std::max<uint64_t>(count, 1), sizeof(uint64_t))));
  if (!words) throw std::bad_alloc();
  return words;
}

uint64_t DirtyBitmap::bits() const noexcept {
  return div_ceil<uint64_t>(disk_bytes_, uint64_t{1} << granularity_bits_);
}

uint64_t DirtyBitmap::byte_count() const noexcept {
  return div_ceil<uint64_t>(bits(), 8);
}

uint64_t DirtyBitmap::word(uint64_t index) const noexcept {
  return std::atomic_ref<uint64_t>(words_[index]).load(std::memory_order_relaxed);
}

// Most writes find their bits set already: then nobody's cache line is taken away.
void DirtyBitmap::set(uint64_t begin, uint64_t end) noexcept {
  if (begin >= end) return;
  const uint64_t first = begin >> granularity_bits_;
  const uint64_t last = (end - 1) >> granularity_bits_;
  for (uint64_t index = first / kWordBits; index <= last / kWordBits; ++index) {
    const uint64_t from = index == first / kWordBits ? first % kWordBits : 0;
    const uint64_t to = index == last / kWordBits ? last % kWordBits + 1 : kWordBits;
    const uint64_t mask = word_mask(from, to);
    if ((word(index) & mask) != mask)
      std::atomic_ref<uint64_t>(words_[index]).fetch_or(mask, std::memory_order_relaxed);
  }
}

// In its place: others may be looking.
void DirtyBitmap::clear() noexcept {
  const uint64_t count = div_ceil(bits(), kWordBits);
  for (uint64_t index = 0; index < count; ++index)
    if (word(index) != 0) std::atomic_ref<uint64_t>(words_[index]).store(0, std::memory_order_relaxed);
}

void DirtyBitmap::merge(const DirtyBitmap& other) noexcept {
  for (uint64_t at = other.next_dirty(0); at < disk_bytes_;) {
    const uint64_t end = other.next_clean(at);
    set(at, end);
    at = other.next_dirty(end);
  }
}

void DirtyBitmap::resize(uint64_t disk_bytes) {
  const uint64_t old_words = div_ceil(bits(), kWordBits);
  const Words old = std::move(words_);
  disk_bytes_ = disk_bytes;
  words_ = make_words(bits());
  for (uint64_t i = 0; i < std::min(old_words, div_ceil(bits(), kWordBits)); ++i)
    if (old[i] != 0) words_[i] = old[i];
  drop_bits_past_end();
}

uint64_t DirtyBitmap::find(uint64_t bit, bool inverted) const noexcept {
  const uint64_t end = bits();
  while (bit < end) {
    const uint64_t value = inverted ? ~word(bit / kWordBits) : word(bit / kWordBits);
    const uint64_t left = value & word_mask(bit % kWordBits, kWordBits);
    if (left != 0)
      return std::min(end, align_down(bit, kWordBits) + static_cast<uint64_t>(std::countr_zero(left)));
    bit = align_down(bit, kWordBits) + kWordBits;
  }
  return end;
}

uint64_t DirtyBitmap::next_dirty(uint64_t from) const noexcept {
  const uint64_t bit = find(from >> granularity_bits_, /*inverted=*/false);
  return std::min(disk_bytes_, std::max(from, bit << granularity_bits_));
}

uint64_t DirtyBitmap::next_clean(uint64_t from) const noexcept {
  const uint64_t bit = find(from >> granularity_bits_, /*inverted=*/true);
  return std::min(disk_bytes_, std::max(from, bit << granularity_bits_));
}

void DirtyBitmap::save(uint64_t offset, Bytes into) const noexcept {
  const uint64_t end = byte_count();
  for (size_t i = 0; i < into.size(); i += sizeof(uint64_t)) {
    std::byte bytes[sizeof(uint64_t)] = {};
    if (offset + i < end) store_le(bytes, word((offset + i) / sizeof(uint64_t)));
    std::copy_n(bytes, std::min(sizeof bytes, into.size() - i), into.data() + i);
  }
}

void DirtyBitmap::load(uint64_t offset, ConstBytes from) noexcept {
  const uint64_t end = byte_count();
  for (size_t i = 0; i < from.size() && offset + i < end; i += sizeof(uint64_t)) {
    std::byte bytes[sizeof(uint64_t)] = {};
    std::copy_n(from.data() + i, std::min(sizeof bytes, from.size() - i), bytes);
    const auto value = load_le<uint64_t>(bytes);
    if (value != 0) words_[(offset + i) / sizeof(uint64_t)] = value;
  }
  drop_bits_past_end();
}

void DirtyBitmap::drop_bits_past_end() noexcept {
  const uint64_t beyond = bits() % kWordBits;
  if (beyond != 0 && words_[bits() / kWordBits] != 0) words_[bits() / kWordBits] &= word_mask(0, beyond);
}

}  // namespace cofre::qcow2
