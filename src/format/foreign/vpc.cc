#include "format/foreign/vpc.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

constexpr uint64_t kFooterBytes = 512;
constexpr uint64_t kDynamicHeaderBytes = 1024;
constexpr std::string_view kFooterMagic = "conectix";
constexpr std::string_view kDynamicMagic = "cxsparse";
constexpr uint32_t kFixed = 2;
constexpr uint32_t kDynamic = 3;
constexpr uint32_t kDifferencing = 4;
constexpr uint32_t kUnallocated = 0xffffffff;
constexpr uint32_t kMaxBlockBytes = 256 * kMiB;
constexpr uint64_t kMaxDiskBytes = 2040 * kGiB;
// The largest geometry there is: larger disks have it too.
constexpr uint64_t kMaxGeometrySectors = uint64_t{65535} * 16 * 255;

// Offsets in the footer.
constexpr size_t kDataOffsetAt = 16;
constexpr size_t kCreatorAt = 28;
constexpr size_t kCurrentSizeAt = 48;
constexpr size_t kCylindersAt = 56;
constexpr size_t kHeadsAt = 58;
constexpr size_t kSectorsAt = 59;
constexpr size_t kTypeAt = 60;
constexpr size_t kFooterChecksumAt = 64;
// In the dynamic header.
constexpr size_t kTableOffsetAt = 16;
constexpr size_t kEntriesAt = 28;
constexpr size_t kBlockBytesAt = 32;
constexpr size_t kDynamicChecksumAt = 36;

// Programs that mean the size in bytes; Virtual PC and QEMU (without force_size) mean the geometry.
constexpr std::array<std::string_view, 6> kCreatorsBySize = {
    "win ", "qem2", "d2v ", std::string_view("tap\0", 4), "CTXS", std::string_view("wa\0\0", 4)};

void check_sum(ConstBytes bytes, size_t checksum_at, std::string_view what, const std::string& name) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    if (i < checksum_at || i >= checksum_at + 4) sum += static_cast<uint8_t>(bytes[i]);
  if (load_be<uint32_t>(bytes.data() + checksum_at) != ~sum)
    fail(ErrorKind::kCorrupt, "'{}': the checksum of the {} is wrong", name, what);
}

bool sized_by_geometry(ConstBytes footer, VpcSize size) {
  if (size != VpcSize::kByCreator) return size == VpcSize::kGeometry;
  const std::string_view creator(reinterpret_cast<const char*>(footer.data()) + kCreatorAt, 4);
  return std::ranges::find(kCreatorsBySize, creator) == kCreatorsBySize.end();
}

uint64_t disk_bytes(ConstBytes footer, VpcSize size, const std::string& name) {
  const uint64_t geometry_sectors = uint64_t{load_be<uint16_t>(footer.data() + kCylindersAt)} *
                                    static_cast<uint8_t>(footer[kHeadsAt]) *
                                    static_cast<uint8_t>(footer[kSectorsAt]);
  uint64_t bytes = geometry_sectors * kSectorBytes;
  if (!sized_by_geometry(footer, size) || geometry_sectors == kMaxGeometrySectors)
    bytes = align_down<uint64_t>(load_be<uint64_t>(footer.data() + kCurrentSizeAt), kSectorBytes);
  if (bytes > kMaxDiskBytes)
    fail(ErrorKind::kCorrupt, "'{}': a disk of {} bytes is larger than VHD can have", name, bytes);
  return bytes;
}

VpcLayout decode_fixed(ConstBytes footer, VpcSize size, const block::Device& file) {
  if (!starts_with(footer, kFooterMagic) || load_be<uint32_t>(footer.data() + kTypeAt) != kFixed)
    fail(ErrorKind::kCorrupt,
         "'{}' is no VHD image, or its end is missing: there is no footer at its start, and none of a fixed "
         "one at its end",
         file.name());
  check_sum(footer, kFooterChecksumAt, "footer", file.name());
  const VpcLayout layout{.disk_bytes = disk_bytes(footer, size, file.name())};
  if (layout.disk_bytes > file.length_bytes() - kFooterBytes)
    fail(ErrorKind::kCorrupt, "'{}': {} bytes are too few for a disk of {} bytes: the file is truncated",
         file.name(), file.length_bytes(), layout.disk_bytes);
  return layout;
}

void check_dynamic_footer(ConstBytes footer, const std::string& name) {
  check_sum(footer, kFooterChecksumAt, "footer's copy", name);
  const auto type = load_be<uint32_t>(footer.data() + kTypeAt);
  if (type == kDifferencing)
    fail(ErrorKind::kUnsupported,
         "'{}' is a differencing VHD image, which needs its parent: merge it into that first (Merge-VHD)",
         name);
  if (type != kDynamic)
    fail(ErrorKind::kCorrupt, "'{}' starts as a dynamic VHD image, but says that its type is {}", name, type);
}

VpcLayout decode_dynamic(ConstBytes header, uint64_t disk, const block::Device& file) {
  const std::string& name = file.name();
  if (!starts_with(header, kDynamicMagic))
    fail(ErrorKind::kCorrupt, "'{}': the dynamic disk header is not where the footer says", name);
  check_sum(header, kDynamicChecksumAt, "dynamic disk header", name);
  VpcLayout layout{.disk_bytes = disk,
                   .table_offset = load_be<uint64_t>(header.data() + kTableOffsetAt),
                   .entries = load_be<uint32_t>(header.data() + kEntriesAt),
                   .block_bytes = load_be<uint32_t>(header.data() + kBlockBytesAt)};
  if (!std::has_single_bit(layout.block_bytes) || layout.block_bytes < kSectorBytes ||
      layout.block_bytes > kMaxBlockBytes)
    fail(ErrorKind::kCorrupt, "'{}': no block has {} bytes", name, layout.block_bytes);
  // One bit a sector, in whole sectors.
  layout.bitmap_bytes = align_up(std::max(layout.block_bytes / kSectorBytes / 8, 1U), kSectorBytes);
  if (div_ceil<uint64_t>(disk, layout.block_bytes) > layout.entries)
    fail(ErrorKind::kCorrupt, "'{}': {} blocks of {} bytes are too few for a disk of {} bytes", name,
         layout.entries, layout.block_bytes, disk);
  if (!is_aligned<uint64_t>(layout.table_offset, kSectorBytes) ||
      !range_within(layout.table_offset, layout.entries * sizeof(uint32_t), file.length_bytes()))
    fail(ErrorKind::kCorrupt,
         "'{}': the block allocation table at {} with {} entries does not lie in the file: it is truncated",
         name, layout.table_offset, layout.entries);
  return layout;
}

io::task<VpcLayout> read_layout(block::Device& file, VpcSize size) {
  std::array<std::byte, kFooterBytes> footer;
  co_await read_structure(file, 0, footer, "the footer");
  if (!is_vpc(footer)) {
    co_await file.read(file.length_bytes() - kFooterBytes, footer);
    co_return decode_fixed(footer, size, file);
  }
  check_dynamic_footer(footer, file.name());
  std::array<std::byte, kDynamicHeaderBytes> header;
  const auto at = load_be<uint64_t>(footer.data() + kDataOffsetAt);
  co_await read_structure(file, at, header, "the dynamic disk header");
  co_return decode_dynamic(header, disk_bytes(footer, size, file.name()), file);
}

}  // namespace

bool is_vpc(ConstBytes start) noexcept {
  return starts_with(start, kFooterMagic);
}

Vpc::Vpc(std::unique_ptr<block::Device> file, const VpcLayout& layout)
    : Image(std::move(file)), layout_(layout) {
  set_length(layout.disk_bytes);
}

io::task<std::unique_ptr<Vpc>> Vpc::open(std::unique_ptr<block::Device> file, VpcSize size) {
  const VpcLayout layout = co_await read_layout(*file, size);
  co_return std::unique_ptr<Vpc>(new Vpc(std::move(file), layout));
}

std::optional<uint64_t> Vpc::cluster_bytes() const {
  if (layout_.block_bytes == 0) return std::nullopt;
  return layout_.block_bytes;
}

io::task<Piece> Vpc::locate(uint64_t offset, uint64_t length) {
  if (layout_.block_bytes == 0)
    co_return Piece{.kind = Piece::Kind::kStored,
                    .length_bytes = length,
                    .file = &file(),
                    .file_offset = offset,
                    .whole_disk = true};
  const uint64_t within = offset % layout_.block_bytes;
  const uint64_t at = layout_.table_offset + offset / layout_.block_bytes * sizeof(uint32_t);
  Piece piece{.length_bytes = std::min(length, layout_.block_bytes - within)};
  const auto sector = co_await tables_.load_be_entry<uint32_t>(file(), at);
  if (sector == kUnallocated) co_return piece;
  // Only differencing images need the bitmap: here a sector that was never written is zero in its block too.
  piece.kind = Piece::Kind::kStored;
  piece.file = &file();
  piece.file_offset = uint64_t{sector} * kSectorBytes + layout_.bitmap_bytes + within;
  co_return piece;
}

}  // namespace cofre::foreign
