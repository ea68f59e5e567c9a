// L1 and L2 entries and refcounts: how single integers of the tables are read and made. No I/O.
// Source: qcow2 specification, "Cluster mapping" and "Host cluster management".
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;  // bits 9..55
inline constexpr uint64_t kCopiedFlag = uint64_t{1} << 63;   // the refcount is exactly 1
inline constexpr uint64_t kCompressedFlag = uint64_t{1} << 62;
inline constexpr uint64_t kZeroFlag = 1;  // standard entries of version 3: reads as zero
inline constexpr uint64_t kL1ReservedMask = 0x7f000000000001ff;

// How a subcluster (a whole cluster in images without extended L2 entries) is stored.
enum class Storage : uint8_t {
  kUnallocated,    // the backing file decides
  kZeroPlain,      // reads as zero, no space behind it
  kZeroAllocated,  // reads as zero, a host cluster is reserved
  kNormal,
  kCompressed,  // the whole cluster
  kInvalid,     // breaks the specification
};

// One L2 entry as loaded; `bitmap` is the second word of an extended entry, else 0.
struct L2Entry {
  uint64_t word = 0;
  uint64_t bitmap = 0;

  uint64_t host_offset() const noexcept { return word & kOffsetMask; }
  bool copied() const noexcept { return (word & kCopiedFlag) != 0; }
  bool compressed() const noexcept { return (word & kCompressedFlag) != 0; }
  bool operator==(const L2Entry&) const = default;
};

inline L2Entry load_entry(const std::byte* slice, uint64_t index, bool extended) noexcept {
  if (!extended) return {load_be<uint64_t>(slice + index * 8), 0};
  return {load_be<uint64_t>(slice + index * 16), load_be<uint64_t>(slice + index * 16 + 8)};
}

inline void store_entry(std::byte* slice, uint64_t index, bool extended, L2Entry entry) noexcept {
  if (!extended) {
    store_be(slice + index * 8, entry.word);
    return;
  }
  store_be(slice + index * 16, entry.word);
  store_be(slice + index * 16 + 8, entry.bitmap);
}

// Extended entries: bits 0..31 of the bitmap say allocated, bits 32..63 reads-as-zero.
constexpr uint64_t allocated_bit(unsigned subcluster) noexcept {
  return uint64_t{1} << subcluster;
}
constexpr uint64_t zero_bit(unsigned subcluster) noexcept {
  return uint64_t{1} << (32 + subcluster);
}
inline constexpr uint64_t kAllAllocated = 0x00000000ffffffff;
inline constexpr uint64_t kAllZero = 0xffffffff00000000;

// The bits of subclusters [first, first + count) in the low half.
constexpr uint64_t subcluster_mask(unsigned first, unsigned count) noexcept {
  return ((count >= 32 ? uint64_t{0xffffffff} : (uint64_t{1} << count) - 1) << first) & kAllAllocated;
}

inline Storage storage_of(L2Entry entry, unsigned subcluster, const Header& header) noexcept {
  if (entry.compressed()) return header.external_data() ? Storage::kInvalid : Storage::kCompressed;
  const bool has_offset = entry.host_offset() != 0 || (header.external_data() && entry.copied());
  if (header.extended_l2()) {
    const bool allocated = (entry.bitmap & allocated_bit(subcluster)) != 0;
    const bool zero = (entry.bitmap & zero_bit(subcluster)) != 0;
    if (allocated && (zero || !has_offset)) return Storage::kInvalid;
    if (allocated) return Storage::kNormal;
    if (zero) return has_offset ? Storage::kZeroAllocated : Storage::kZeroPlain;
    return Storage::kUnallocated;
  }
  if ((entry.word & kZeroFlag) != 0 && header.version >= 3)
    return has_offset ? Storage::kZeroAllocated : Storage::kZeroPlain;
  return has_offset ? Storage::kNormal : Storage::kUnallocated;
}

// Whether a host cluster stands behind the entry (some subcluster of it may still be unallocated).
inline bool has_host_cluster(L2Entry entry, const Header& header) noexcept {
  return !entry.compressed() && (entry.host_offset() != 0 || (header.external_data() && entry.copied()));
}

// A compressed cluster: a byte offset, and the bytes from there to the end of its last 512-byte sector.
struct CompressedPlace {
  uint64_t offset;
  uint64_t length_bytes;
};

inline CompressedPlace compressed_place(uint64_t word, uint32_t cluster_bits) noexcept {
  const uint32_t offset_bits = 62 - (cluster_bits - 8);
  const uint64_t offset = word & ((uint64_t{1} << offset_bits) - 1);
  const uint64_t additional_sectors = (word & (kCompressedFlag - 1)) >> offset_bits;
  return {offset, (additional_sectors + 1) * kSectorBytes - (offset & (kSectorBytes - 1))};
}

// The host clusters that its bytes touch: each has one reference for it.
struct CompressedClusters {
  uint64_t host_offset;
  uint64_t count;
};
inline CompressedClusters compressed_clusters(uint64_t word, uint32_t cluster_bits) noexcept {
  const CompressedPlace place = compressed_place(word, cluster_bits);
  const uint64_t first = place.offset >> cluster_bits;
  const uint64_t last = (place.offset + place.length_bytes - 1) >> cluster_bits;
  return {first << cluster_bits, last - first + 1};
}

// Compressed clusters start below this host offset: their descriptor has no room for more.
constexpr uint64_t compressed_offset_limit(uint32_t cluster_bits) noexcept {
  return uint64_t{1} << (62 - (cluster_bits - 8));
}

// The entry of a cluster whose compressed bytes, at least one and fewer than a cluster has, start at
// `offset`.
constexpr L2Entry compressed_entry(uint64_t offset, uint64_t length_bytes, uint32_t cluster_bits) noexcept {
  const uint64_t additional_sectors = (offset + length_bytes - 1) / kSectorBytes - offset / kSectorBytes;
  return {kCompressedFlag | additional_sectors << (62 - (cluster_bits - 8)) | offset, 0};
}

// Refcounts are 1 to 64 bits wide; below 8 bits they are packed from the least significant bit up.
inline uint64_t load_refcount(const std::byte* slice, uint64_t index, uint32_t order) noexcept {
  switch (order) {
    case 3:
      return std::to_integer<uint64_t>(slice[index]);
    case 4:
      return load_be<uint16_t>(slice + index * 2);
    case 5:
      return load_be<uint32_t>(slice + index * 4);
    case 6:
      return load_be<uint64_t>(slice + index * 8);
    default: {
      const uint32_t width = 1u << order;
      const uint32_t per_byte = 8 / width;
      const auto byte = std::to_integer<uint32_t>(slice[index / per_byte]);
      return byte >> (index % per_byte * width) & ((1u << width) - 1);
    }
  }
}

inline void store_refcount(std::byte* slice, uint64_t index, uint32_t order, uint64_t value) noexcept {
  switch (order) {
    case 3:
      slice[index] = static_cast<std::byte>(value);
      break;
    case 4:
      store_be(slice + index * 2, static_cast<uint16_t>(value));
      break;
    case 5:
      store_be(slice + index * 4, static_cast<uint32_t>(value));
      break;
    case 6:
      store_be(slice + index * 8, value);
      break;
    default: {
      const uint32_t width = 1u << order;
      const uint32_t per_byte = 8 / width;
      const uint32_t shift = static_cast<uint32_t>(index % per_byte) * width;
      const uint32_t mask = ((1u << width) - 1) << shift;
      const auto byte = std::to_integer<uint32_t>(slice[index / per_byte]);
      slice[index / per_byte] =
          static_cast<std::byte>((byte & ~mask) | static_cast<uint32_t>(value) << shift);
    }
  }
}

inline uint64_t max_refcount(uint32_t order) noexcept {
  return order == 6 ? UINT64_MAX : (uint64_t{1} << (1u << order)) - 1;
}

}  // namespace cofre::qcow2
