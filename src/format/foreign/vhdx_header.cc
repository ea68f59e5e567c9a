#include "format/foreign/vhdx_header.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <string_view>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "format/foreign/image.h"

namespace cofre::foreign {
namespace {

using Guid = std::array<std::byte, 16>;

// A GUID as it is written: its first three numbers are little-endian on disk.
consteval Guid guid_of(std::string_view text) {
  constexpr std::array<int, 16> kFrom = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'A' + 10; };
  Guid guid = {};
  for (size_t i = 0; i < guid.size(); ++i)
    guid[i] = static_cast<std::byte>(digit(text[kFrom[i]]) * 16 + digit(text[kFrom[i] + 1]));
  return guid;
}

constexpr Guid kNoGuid = {};
constexpr Guid kTableRegion = guid_of("2DC27766-F623-4200-9D64-115E9BFD4A08");
constexpr Guid kMetadataRegion = guid_of("8B7CA206-4790-4B9A-B8FE-575F050F886E");
constexpr Guid kFileParameters = guid_of("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
constexpr Guid kDiskSize = guid_of("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
constexpr Guid kDiskId = guid_of("BECA12AB-B2E6-4523-93EF-C309E000C746");
constexpr Guid kLogicalSector = guid_of("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
constexpr Guid kPhysicalSector = guid_of("CDA348C7-445D-4471-9CC9-E9885251C556");
constexpr Guid kParentLocator = guid_of("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");

constexpr std::string_view kFileMagic = "vhdxfile";
constexpr std::string_view kHeaderMagic = "head";
constexpr std::string_view kRegionMagic = "regi";
constexpr std::string_view kMetadataMagic = "metadata";
constexpr std::string_view kLogEntryMagic = "loge";
constexpr std::array<uint64_t, 2> kHeadersAt = {64 * kKiB, 128 * kKiB};
constexpr std::array<uint64_t, 2> kRegionTablesAt = {192 * kKiB, 256 * kKiB};
constexpr uint64_t kHeaderBytes = 4 * kKiB;
constexpr uint64_t kTableBytes = 64 * kKiB;  // of a region table, and of the metadata table
constexpr uint64_t kEntryBytes = 32;         // in both
constexpr uint32_t kMostEntries = 2047;
constexpr size_t kChecksumAt = 4;
constexpr uint64_t kLogSectorBytes = 4 * kKiB;
constexpr uint64_t kMostLogBytes = 256 * kMiB;  // longer ones are not searched
constexpr uint64_t kMaxDiskBytes = 64 * kTiB;
constexpr uint64_t kChunkSectors = uint64_t{1} << 23;  // whose bits make a sector bitmap block of 1 MiB

Guid guid_at(ConstBytes bytes, size_t at) {
  Guid guid;
  std::copy_n(bytes.data() + at, guid.size(), guid.data());
  return guid;
}

// CRC-32C with the checksum's own field taken as zero. Changes that field.
bool checksum_fits(Bytes bytes) {
  const auto stored = load_le<uint32_t>(bytes.data() + kChecksumAt);
  store_le<uint32_t>(bytes.data() + kChecksumAt, 0);
  auto* const data = reinterpret_cast<unsigned char*>(bytes.data());
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~0U) == stored;
}

// ---- headers and log (2.2.2, 2.3) ----

struct Header {
  uint64_t sequence = 0;
  Guid log_guid = {};
  uint16_t log_version = 0;
  uint16_t version = 0;
  uint64_t log_bytes = 0;
  uint64_t log_offset = 0;
};

io::task<std::optional<Header>> read_header(block::Device& file, uint64_t offset) {
  AlignedBuffer bytes(kHeaderBytes);
  co_await read_structure(file, offset, bytes.bytes(), "a VHDX header");
  if (!starts_with(bytes.bytes(), kHeaderMagic) || !checksum_fits(bytes.bytes())) co_return std::nullopt;
  const std::byte* const at = bytes.data();
  co_return Header{.sequence = load_le<uint64_t>(at + 8),
                   .log_guid = guid_at(bytes.bytes(), 48),
                   .log_version = load_le<uint16_t>(at + 64),
                   .version = load_le<uint16_t>(at + 66),
                   .log_bytes = load_le<uint32_t>(at + 68),
                   .log_offset = load_le<uint64_t>(at + 72)};
}

io::task<Header> current_header(block::Device& file) {
  const std::optional<Header> first = co_await read_header(file, kHeadersAt[0]);
  const std::optional<Header> second = co_await read_header(file, kHeadersAt[1]);
  if (!first && !second)
    fail(ErrorKind::kCorrupt, "'{}': neither of the two VHDX headers is valid (signature, CRC-32C)",
         file.name());
  const Header header = !second || (first && first->sequence >= second->sequence) ? *first : *second;
  if (header.version != 1)
    fail(ErrorKind::kUnsupported, "'{}': VHDX version {} is not supported, 1 is", file.name(),
         header.version);
  co_return header;
}

// Whether an entry of the log carries the GUID. Entries start at sectors of the log.
io::task<bool> log_has_entry(block::Device& file, const Header& header) {
  if (header.log_bytes > kMostLogBytes) co_return true;
  AlignedBuffer buffer(kMiB);
  for (uint64_t done = 0; done < header.log_bytes; done += buffer.size()) {
    const Bytes part = buffer.bytes().first(std::min<uint64_t>(buffer.size(), header.log_bytes - done));
    co_await read_structure(file, header.log_offset + done, part, "the log");
    for (uint64_t at = 0; at + kLogSectorBytes <= part.size(); at += kLogSectorBytes) {
      const ConstBytes sector = part.subspan(at, kLogSectorBytes);
      if (starts_with(sector, kLogEntryMagic) && guid_at(sector, 32) == header.log_guid) co_return true;
    }
  }
  co_return false;
}

io::task<void> refuse_dirty_log(block::Device& file, const Header& header) {
  if (header.log_guid == kNoGuid) co_return;
  if (!range_within(header.log_offset, header.log_bytes, file.length_bytes()))
    fail(ErrorKind::kCorrupt, "'{}': the log at {} ({} bytes) does not lie in the file: it is truncated",
         file.name(), header.log_offset, header.log_bytes);
  if (header.log_version == 0 && !co_await log_has_entry(file, header)) co_return;
  fail(ErrorKind::kUnsupported,
       "'{}' was not closed cleanly: its log has changes that are not in the image yet. Have them replayed "
       "first: qemu-img check -r all, or Mount-VHD and Dismount-VHD in Hyper-V",
       file.name());
}

// ---- region table (2.2.3) ----

struct Region {
  uint64_t offset = 0;
  uint64_t length = 0;
};
struct Regions {
  std::optional<Region> table;
  std::optional<Region> metadata;
};

io::task<AlignedBuffer> read_region_table(block::Device& file) {
  AlignedBuffer bytes(kTableBytes);
  for (const uint64_t offset : kRegionTablesAt) {
    co_await read_structure(file, offset, bytes.bytes(), "a region table");
    if (starts_with(bytes.bytes(), kRegionMagic) && checksum_fits(bytes.bytes())) co_return bytes;
  }
  fail(ErrorKind::kCorrupt, "'{}': neither of the two region tables is valid (signature, CRC-32C)",
       file.name());
}

void take_region(ConstBytes entry, const block::Device& file, Regions& regions) {
  const Guid guid = guid_at(entry, 0);
  const Region region = {load_le<uint64_t>(entry.data() + 16), load_le<uint32_t>(entry.data() + 24)};
  const bool required = (load_le<uint32_t>(entry.data() + 28) & 1) != 0;
  if (!range_within(region.offset, region.length, file.length_bytes()) ||
      !is_aligned<uint64_t>(region.offset, kMiB))
    fail(ErrorKind::kCorrupt, "'{}': a region at {} ({} bytes) does not lie in the file, or not at a MiB",
         file.name(), region.offset, region.length);
  std::optional<Region>* const known = guid == kTableRegion      ? &regions.table
                                       : guid == kMetadataRegion ? &regions.metadata
                                                                 : nullptr;
  if (known == nullptr && required)
    fail(ErrorKind::kUnsupported, "'{}' needs a region that Cofre does not know", file.name());
  if (known == nullptr) return;
  if (*known) fail(ErrorKind::kCorrupt, "'{}': two regions have the same GUID", file.name());
  *known = region;
}

io::task<Regions> read_regions(block::Device& file) {
  const AlignedBuffer table = co_await read_region_table(file);
  const auto count = load_le<uint32_t>(table.data() + 8);
  if (count > kMostEntries)
    fail(ErrorKind::kCorrupt, "'{}': {} regions are more than can be", file.name(), count);
  Regions regions;
  for (uint32_t i = 0; i < count; ++i)
    take_region(table.bytes().subspan(16 + i * kEntryBytes, kEntryBytes), file, regions);
  if (!regions.table || !regions.metadata)
    fail(ErrorKind::kCorrupt, "'{}' has no block allocation table, or no metadata", file.name());
  co_return regions;
}

// ---- metadata (2.6) ----

struct Metadata {
  std::optional<uint64_t> disk_bytes;
  std::optional<uint32_t> block_bytes;
  std::optional<uint32_t> sector_bytes;
};

void refuse_parent(uint32_t parameters, const std::string& name) {
  constexpr uint32_t kHasParent = 2;
  if ((parameters & kHasParent) == 0) return;
  fail(ErrorKind::kUnsupported,
       "'{}' is a differencing VHDX image, which needs its parent: merge it into that first (Merge-VHD)",
       name);
}

// `item` has at least 8 bytes, zeros behind its end.
void take_item(const Guid& guid, ConstBytes item, const std::string& name, Metadata& metadata) {
  if (guid == kFileParameters) {
    metadata.block_bytes = load_le<uint32_t>(item.data());
    refuse_parent(load_le<uint32_t>(item.data() + 4), name);
  } else if (guid == kDiskSize) {
    metadata.disk_bytes = load_le<uint64_t>(item.data());
  } else if (guid == kLogicalSector) {
    metadata.sector_bytes = load_le<uint32_t>(item.data());
  }
}

io::task<void> read_item(block::Device& file, const Region& region, ConstBytes entry, Metadata& metadata) {
  constexpr std::array kKnown = {kFileParameters, kDiskSize,       kDiskId,
                                 kLogicalSector,  kPhysicalSector, kParentLocator};
  constexpr uint32_t kRequired = 4;
  const Guid guid = guid_at(entry, 0);
  const auto offset = load_le<uint32_t>(entry.data() + 16);
  const auto length = load_le<uint32_t>(entry.data() + 20);
  if (std::ranges::find(kKnown, guid) == kKnown.end()) {
    if ((load_le<uint32_t>(entry.data() + 24) & kRequired) != 0)
      fail(ErrorKind::kUnsupported, "'{}' needs metadata that Cofre does not know", file.name());
    co_return;
  }
  if (!range_within(offset, length, region.length))
    fail(ErrorKind::kCorrupt, "'{}': a metadata item at {} ({} bytes) does not lie in its region",
         file.name(), offset, length);
  std::array<std::byte, 8> item = {};
  co_await read_structure(file, region.offset + offset,
                          Bytes(item).first(std::min<uint64_t>(length, item.size())), "a metadata item");
  take_item(guid, item, file.name(), metadata);
}

io::task<Metadata> read_metadata(block::Device& file, Region region) {
  if (region.length < kTableBytes)
    fail(ErrorKind::kCorrupt, "'{}': a metadata region of {} bytes has no room for its table", file.name(),
         region.length);
  AlignedBuffer table(kTableBytes);
  co_await read_structure(file, region.offset, table.bytes(), "the metadata table");
  const auto count = load_le<uint16_t>(table.data() + 10);
  if (!starts_with(table.bytes(), kMetadataMagic) || count > kMostEntries)
    fail(ErrorKind::kCorrupt, "'{}': the metadata table is damaged", file.name());
  Metadata metadata;
  for (uint32_t i = 0; i < count; ++i)
    co_await read_item(file, region, table.bytes().subspan((i + 1) * kEntryBytes, kEntryBytes), metadata);
  co_return metadata;
}

VhdxLayout make_layout(const Metadata& metadata, const Region& table, const std::string& name) {
  if (!metadata.disk_bytes || !metadata.block_bytes || !metadata.sector_bytes)
    fail(ErrorKind::kCorrupt, "'{}': the metadata lacks the size of the disk, of a block or of a sector",
         name);
  const uint32_t block = *metadata.block_bytes;
  const uint32_t sector = *metadata.sector_bytes;
  if (!std::has_single_bit(block) || block < kMiB || block > 256 * kMiB)
    fail(ErrorKind::kCorrupt, "'{}': no block has {} bytes", name, block);
  if (sector != 512 && sector != 4096)
    fail(ErrorKind::kCorrupt, "'{}': no logical sector has {} bytes", name, sector);
  if (*metadata.disk_bytes > kMaxDiskBytes || !is_aligned<uint64_t>(*metadata.disk_bytes, sector))
    fail(ErrorKind::kCorrupt, "'{}': no disk has {} bytes", name, *metadata.disk_bytes);
  const VhdxLayout layout{.disk_bytes = *metadata.disk_bytes,
                          .table_offset = table.offset,
                          .block_bytes = block,
                          .chunk_blocks = static_cast<uint32_t>(kChunkSectors * sector / block)};
  const uint64_t blocks = div_ceil<uint64_t>(layout.disk_bytes, block);
  if (blocks > 0 && layout.entry_index(blocks - 1) >= table.length / sizeof(uint64_t))
    fail(ErrorKind::kCorrupt, "'{}': a block allocation table of {} bytes is too short for {} blocks", name,
         table.length, blocks);
  return layout;
}

}  // namespace

io::task<VhdxLayout> read_vhdx_layout(block::Device& file) {
  std::array<std::byte, 8> magic;
  co_await read_structure(file, 0, magic, "the VHDX signature");
  if (!starts_with(magic, kFileMagic))
    fail(ErrorKind::kCorrupt, "'{}' is no VHDX image: its signature is missing", file.name());
  const Header header = co_await current_header(file);
  co_await refuse_dirty_log(file, header);
  const Regions regions = co_await read_regions(file);
  const Metadata metadata = co_await read_metadata(file, *regions.metadata);
  co_return make_layout(metadata, *regions.table, file.name());
}

}  // namespace cofre::foreign
