#include "format/qcow2/bitmap_directory.h"

#include <algorithm>
#include <unordered_set>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kFixedBytes = 24;

uint64_t padded_entry_bytes(uint64_t extra_bytes, uint64_t name_bytes) noexcept {
  return align_up<uint64_t>(kFixedBytes + extra_bytes + name_bytes, 8);
}

BitmapEntry decode_entry(ConstBytes at, uint32_t index, const std::string& image) {
  const auto bad = [&](const std::string& finding) {
    fail(ErrorKind::kCorrupt, "'{}': entry {} of the bitmap directory {}", image, index, finding);
  };
  if (at.size() < kFixedBytes) bad("lies outside of it");
  const uint64_t name_bytes = load_be<uint16_t>(at.data() + 18);
  const uint64_t extra_bytes = load_be<uint32_t>(at.data() + 20);
  if (padded_entry_bytes(extra_bytes, name_bytes) > at.size()) bad("ends outside of it");
  if (name_bytes == 0 || name_bytes > kMostBitmapNameBytes)
    bad(fmt::format("has a name of {} bytes (1 to {} are allowed)", name_bytes, kMostBitmapNameBytes));
  BitmapEntry entry;
  entry.table_offset = load_be<uint64_t>(at.data());
  entry.table_entries = load_be<uint32_t>(at.data() + 8);
  entry.flags = load_be<uint32_t>(at.data() + kBitmapFlagsAt);
  entry.type = std::to_integer<uint8_t>(at[16]);
  entry.granularity_bits = std::to_integer<uint8_t>(at[17]);
  if (entry.granularity_bits > 63) bad(fmt::format("has granularity bits {}", entry.granularity_bits));
  const ConstBytes extra = at.subspan(kFixedBytes, extra_bytes);
  entry.extra.assign(extra.begin(), extra.end());
  entry.name.assign(reinterpret_cast<const char*>(at.data() + kFixedBytes + extra_bytes), name_bytes);
  return entry;
}

}  // namespace

uint64_t bitmap_entry_bytes(const BitmapEntry& entry) noexcept {
  return padded_entry_bytes(entry.extra.size(), entry.name.size());
}

std::vector<BitmapEntry> decode_bitmap_directory(ConstBytes directory, uint32_t count,
                                                 const std::string& image) {
  std::vector<BitmapEntry> entries;
  std::unordered_set<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    entries.push_back(decode_entry(directory, i, image));
    const BitmapEntry& entry = entries.back();
    if (!names.insert(entry.name).second)
      fail(ErrorKind::kCorrupt, "'{}': the bitmap directory has two bitmaps '{}'", image, entry.name);
    directory = directory.subspan(bitmap_entry_bytes(entry));
  }
  if (!directory.empty())
    fail(ErrorKind::kCorrupt, "'{}': the bitmap directory goes on for {} bytes after its {} entries", image,
         directory.size(), count);
  return entries;
}

std::vector<std::byte> encode_bitmap_directory(const std::vector<const BitmapEntry*>& entries) {
  std::vector<std::byte> directory;
  for (const BitmapEntry* entry : entries) {
    const size_t start = directory.size();
    directory.resize(start + bitmap_entry_bytes(*entry));
    std::byte* const at = directory.data() + start;
    store_be(at, entry->table_offset);
    store_be(at + 8, entry->table_entries);
    store_be(at + kBitmapFlagsAt, entry->flags);
    at[16] = std::byte{entry->type};
    at[17] = std::byte{entry->granularity_bits};
    store_be(at + 18, static_cast<uint16_t>(entry->name.size()));
    store_be(at + 20, static_cast<uint32_t>(entry->extra.size()));
    std::ranges::copy(entry->extra, at + kFixedBytes);
    std::ranges::copy(std::as_bytes(std::span(entry->name)), at + kFixedBytes + entry->extra.size());
  }
  return directory;
}

uint64_t bitmap_bytes(uint64_t disk_bytes, unsigned granularity_bits) noexcept {
  return div_ceil<uint64_t>(div_ceil<uint64_t>(disk_bytes, uint64_t{1} << granularity_bits), 8);
}

uint64_t bitmap_table_entries(uint64_t disk_bytes, unsigned granularity_bits,
                              uint64_t cluster_bytes) noexcept {
  return div_ceil(bitmap_bytes(disk_bytes, granularity_bits), cluster_bytes);
}

unsigned default_bitmap_granularity_bits(uint32_t cluster_bits) noexcept {
  return std::clamp<unsigned>(cluster_bits, 12, 16);
}

uint64_t bitmaps_image_bytes(const std::vector<BitmapEntry>& entries, uint64_t disk_bytes,
                             uint64_t cluster_bytes) noexcept {
  uint64_t total = 0;
  uint64_t directory = 0;
  for (const BitmapEntry& entry : entries) {
    const uint64_t clusters = bitmap_table_entries(disk_bytes, entry.granularity_bits, cluster_bytes);
    total += clusters * cluster_bytes + align_up(clusters * 8, cluster_bytes);
    directory += padded_entry_bytes(0, entry.name.size());
  }
  return total + align_up(directory, cluster_bytes);
}

}  // namespace cofre::qcow2
