// The directory of persistent dirty bitmaps: a codec without I/O, and the sizes that bitmaps take.
// Source: the public qcow2 specification, "Bitmaps". Integers are big-endian on disk; a bitmap's bits begin
// with the least significant one of its first byte.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"

namespace cofre::qcow2 {

inline constexpr uint32_t kMostBitmaps = 65535;
inline constexpr uint64_t kMostBitmapDirectoryBytes = 64 * kMiB;
inline constexpr size_t kMostBitmapNameBytes = 1023;
inline constexpr unsigned kMinBitmapGranularityBits = 9;
inline constexpr unsigned kMaxBitmapGranularityBits = 31;
// QEMU's limit for one bitmap; the format has none.
inline constexpr uint64_t kMostBitmapBytes = 512 * kMiB;

enum BitmapFlag : uint32_t {
  kBitmapInUse = 1u << 0,  // it may lack changes: nobody may rely on it
  kBitmapAuto = 1u << 1,   // enabled: every program that changes the disk notes it here
  kBitmapExtraCompatible = 1u << 2,
  kKnownBitmapFlags = kBitmapInUse | kBitmapAuto | kBitmapExtraCompatible,
};
inline constexpr uint8_t kDirtyTrackingBitmap = 1;

// Of an entry in a bitmap's table.
inline constexpr uint64_t kBitmapTableReservedMask = 0xff000000000001fe;
inline constexpr uint64_t kBitmapTableAllOnes = 1;

struct BitmapEntry {
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  uint32_t flags = 0;
  uint8_t type = kDirtyTrackingBitmap;
  uint8_t granularity_bits = 16;
  std::string name = {};
  std::vector<std::byte> extra = {};  // not understood here, kept as it is

  bool in_use() const noexcept { return (flags & kBitmapInUse) != 0; }
  bool enabled() const noexcept { return (flags & kBitmapAuto) != 0; }
  uint64_t granularity_bytes() const noexcept { return uint64_t{1} << granularity_bits; }
  // Whether its bits mean here what they mean to whoever wrote it; if not it must be left alone.
  bool understood() const noexcept {
    return type == kDirtyTrackingBitmap && (flags & ~uint32_t{kKnownBitmapFlags}) == 0 &&
           (extra.empty() || (flags & kBitmapExtraCompatible) != 0) &&
           granularity_bits >= kMinBitmapGranularityBits && granularity_bits <= kMaxBitmapGranularityBits;
  }
};

// Bytes of an entry, padding included.
uint64_t bitmap_entry_bytes(const BitmapEntry& entry) noexcept;
// The offset of the flags within an entry.
inline constexpr uint64_t kBitmapFlagsAt = 12;

// Throws Error kCorrupt, naming `image`, for a directory that breaks the specification: entries that end
// outside of it, names too long, or twice the same.
std::vector<BitmapEntry> decode_bitmap_directory(ConstBytes directory, uint32_t count,
                                                 const std::string& image);
std::vector<std::byte> encode_bitmap_directory(const std::vector<const BitmapEntry*>& entries);

// Bytes of a bitmap's bits over a disk so long, and how many clusters they take, each of which has an entry
// in the bitmap's table. `granularity_bits` is at most 63.
uint64_t bitmap_bytes(uint64_t disk_bytes, unsigned granularity_bits) noexcept;
uint64_t bitmap_table_entries(uint64_t disk_bytes, unsigned granularity_bits,
                              uint64_t cluster_bytes) noexcept;

// The granularity that QEMU chooses: the cluster size, but within 4 KiB and 64 KiB.
unsigned default_bitmap_granularity_bits(uint32_t cluster_bits) noexcept;

// The most bytes that these bitmaps take in an image of clusters so large (as `measure` tells): all their
// bits, their tables and the directory.
uint64_t bitmaps_image_bytes(const std::vector<BitmapEntry>& entries, uint64_t disk_bytes,
                             uint64_t cluster_bytes) noexcept;

}  // namespace cofre::qcow2
