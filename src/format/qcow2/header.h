// The qcow2 header and its extensions: a codec without I/O.
// Source: the public qcow2 specification, sections "Header" and "Header extensions". Integers are big-endian
// on disk.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"

namespace cofre::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;
inline constexpr uint32_t kMinClusterBits = 9;
inline constexpr uint32_t kMaxClusterBits = 21;
inline constexpr uint32_t kMinExtendedL2ClusterBits = 14;
inline constexpr uint32_t kMaxRefcountOrder = 6;
inline constexpr uint64_t kMaxL1Bytes = 32 * kMiB;
inline constexpr uint64_t kMaxRefcountTableBytes = 8 * kMiB;
inline constexpr uint32_t kMaxSnapshots = 65536;
inline constexpr uint32_t kMaxBackingNameBytes = 1023;
inline constexpr uint64_t kHostOffsetLimit = uint64_t{1} << 56;

enum IncompatibleFeature : uint64_t {
  kDirty = 1u << 0,
  kCorrupt = 1u << 1,
  kExternalDataFile = 1u << 2,
  kCompressionType = 1u << 3,
  kExtendedL2 = 1u << 4,
  kKnownIncompatible = kDirty | kCorrupt | kExternalDataFile | kCompressionType | kExtendedL2,
};
enum CompatibleFeature : uint64_t { kLazyRefcounts = 1u << 0 };
enum AutoclearFeature : uint64_t { kBitmaps = 1u << 0, kRawExternalData = 1u << 1 };
inline constexpr uint64_t kKnownAutoclear = kBitmaps | kRawExternalData;

enum class CryptMethod : uint32_t { kNone = 0, kAes = 1, kLuks = 2 };
enum class CompressionType : uint8_t { kDeflate = 0, kZstd = 1 };

// The full-disk-encryption header pointer (extension 0x0537be77).
struct CryptHeaderPlace {
  uint64_t offset = 0;
  uint64_t length_bytes = 0;
};

// The bitmaps extension (0x23852875).
struct BitmapsPlace {
  uint32_t count = 0;
  uint64_t directory_bytes = 0;
  uint64_t directory_offset = 0;
};

struct UnknownExtension {
  uint32_t type = 0;
  std::vector<std::byte> payload;
};

struct Header {
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint64_t size_bytes = 0;  // of the virtual disk
  CryptMethod crypt_method = CryptMethod::kNone;
  uint32_t l1_entries = 0;
  uint64_t l1_table_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible_features = 0;
  uint64_t compatible_features = 0;
  uint64_t autoclear_features = 0;
  uint32_t refcount_order = 4;
  CompressionType compression_type = CompressionType::kDeflate;

  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file;
  std::optional<CryptHeaderPlace> crypt_header;
  std::optional<BitmapsPlace> bitmaps;
  std::vector<std::byte> feature_names;   // the payload of the feature-name table, kept as found
  std::vector<UnknownExtension> unknown;  // kept across a rewrite
  std::vector<std::byte> unknown_fields;  // header bytes beyond those known here, kept across a rewrite

  uint64_t cluster_bytes() const noexcept { return uint64_t{1} << cluster_bits; }
  bool extended_l2() const noexcept { return (incompatible_features & kExtendedL2) != 0; }
  bool external_data() const noexcept { return (incompatible_features & kExternalDataFile) != 0; }
  bool raw_external_data() const noexcept { return (autoclear_features & kRawExternalData) != 0; }
  bool lazy_refcounts() const noexcept { return (compatible_features & kLazyRefcounts) != 0; }
  uint64_t l2_entry_bytes() const noexcept { return extended_l2() ? 16 : 8; }
  uint64_t l2_entries_per_table() const noexcept { return cluster_bytes() / l2_entry_bytes(); }
  uint64_t subclusters_per_cluster() const noexcept { return extended_l2() ? 32 : 1; }
  uint64_t subcluster_bytes() const noexcept { return cluster_bytes() / subclusters_per_cluster(); }
  uint64_t refcount_bits() const noexcept { return uint64_t{1} << refcount_order; }
  uint64_t refcounts_per_block() const noexcept { return cluster_bytes() * 8 / refcount_bits(); }
};

// Whether these bytes, at least 8 from an image's start, are a qcow2 header's.
bool has_magic(ConstBytes start) noexcept;

// Decodes and validates everything that can be judged from the header alone and the file's length. `name` is
// for messages. Throws Error: kInvalidArgument (no qcow2), kUnsupported (a newer version, an unknown
// incompatible bit, by the feature-name table's name if it has one), kCorrupt (values that break the
// specification).
Header decode_header(ConstBytes start, uint64_t file_length, const std::string& name);

// The header cluster's bytes, zero-padded to whole sectors; `image_header_bytes` never passes a cluster.
// Throws Error kLimit if extensions and names do not fit in the first cluster.
std::vector<std::byte> encode_header(const Header& header);
// The same; where the cluster has no room for it, the feature-name table, which is a courtesy, is given up.
std::vector<std::byte> encode_header_with_room(Header& header);
// As encode_header(), with everything but the backing file's name in the first sector, and the name at offset
// `name_at` (a multiple of 512) of the cluster. Throws Error kLimit where that is not possible.
std::vector<std::byte> encode_header(const Header& header, uint64_t name_at);

// The feature-name table that new images carry.
std::vector<std::byte> default_feature_names();

}  // namespace cofre::qcow2
