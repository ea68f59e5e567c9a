#include "format/foreign/vmdk_sparse.h"

#include <libdeflate.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "format/foreign/vmdk_descriptor.h"

namespace cofre::foreign {
namespace {

constexpr uint64_t kHeaderBytes = 512;
constexpr std::string_view kMagic = "KDMV";
constexpr std::string_view kEsxMagic = "COWD";
constexpr std::string_view kLineEnds = "\n \r\n";
constexpr uint64_t kAtEnd = UINT64_MAX;  // the grain directory's offset is in the footer
constexpr uint32_t kMaxVersion = 3;
constexpr uint32_t kMaxTableEntries = 512;
constexpr uint32_t kEsxTableEntries = 4096;
constexpr uint64_t kMaxGrainSectors = 0x200000;
constexpr uint64_t kMaxCompressedGrainBytes = 16 * kMiB;  // it is held in memory as a whole
constexpr uint16_t kDeflate = 1;
constexpr uint64_t kMarkerBytes = 12;  // before a compressed grain: its first sector, and its length

enum Flag : uint32_t { kLineEndTest = 1, kZeroGrains = 4, kCompressed = 1 << 16, kMarkers = 1 << 17 };
enum Marker : uint32_t { kEndOfStream = 0, kFooter = 3 };

// Sectors to bytes, of what must lie in a file.
uint64_t bytes_of(uint64_t sectors, std::string_view what, const std::string& name) {
  if (sectors > INT64_MAX / kSectorBytes)
    fail(ErrorKind::kCorrupt, "'{}': {} is {} sectors: no file is so large", name, what, sectors);
  return sectors * kSectorBytes;
}

void check_shape(const VmdkSparse& extent, uint64_t grain_sectors, uint64_t most_entries,
                 const block::Device& file) {
  const std::string& name = file.name();
  if (extent.length_bytes == 0)
    fail(ErrorKind::kCorrupt, "'{}': the header says that the extent is empty", name);
  if (grain_sectors == 0 || grain_sectors > kMaxGrainSectors)
    fail(ErrorKind::kCorrupt, "'{}': no grain has {} sectors", name, grain_sectors);
  if (extent.table_entries == 0 || extent.table_entries > most_entries)
    fail(ErrorKind::kCorrupt, "'{}': no grain table has {} entries", name, extent.table_entries);
  const uint64_t tables = div_ceil(extent.length_bytes, extent.table_span_bytes());
  if (!range_within(extent.directory_offset, tables * sizeof(uint32_t), file.length_bytes()))
    fail(ErrorKind::kCorrupt,
         "'{}': the grain directory at {} ({} entries) does not lie in the file: it is truncated", name,
         extent.directory_offset, tables);
  if (extent.compressed && extent.grain_bytes > kMaxCompressedGrainBytes)
    fail(ErrorKind::kLimit, "'{}': compressed grains of {} bytes are larger than Cofre reads", name,
         extent.grain_bytes);
}

void check_features(ConstBytes header, const std::string& name) {
  const auto version = load_le<uint32_t>(header.data() + 4);
  const auto flags = load_le<uint32_t>(header.data() + 8);
  if (version == 0 || version > kMaxVersion)
    fail(ErrorKind::kUnsupported, "'{}': VMDK version {} is not supported, 1 to {} are", name, version,
         kMaxVersion);
  if ((flags & kLineEndTest) != 0 && !starts_with(header.subspan(73), kLineEnds))
    fail(ErrorKind::kCorrupt,
         "'{}': line ends in the header are changed: the file was copied as if it were text", name);
  const bool compressed = (flags & kCompressed) != 0;
  if (compressed && (load_le<uint16_t>(header.data() + 77) != kDeflate || (flags & kMarkers) == 0))
    fail(ErrorKind::kUnsupported, "'{}': compressed in a way that is not deflate with markers", name);
}

// Section "Hosted Sparse Extent Header". `directory` is from the footer where that has it.
VmdkSparse decode(ConstBytes header, const block::Device& file) {
  const std::string& name = file.name();
  check_features(header, name);
  const std::byte* const at = header.data();
  const auto flags = load_le<uint32_t>(at + 8);
  const auto grain_sectors = load_le<uint64_t>(at + 20);
  VmdkSparse extent;
  extent.length_bytes = bytes_of(load_le<uint64_t>(at + 12), "the extent", name);
  extent.grain_bytes = std::min(grain_sectors, kMaxGrainSectors) * kSectorBytes;
  extent.descriptor_offset = bytes_of(load_le<uint64_t>(at + 28), "the descriptor's offset", name);
  extent.descriptor_bytes = bytes_of(load_le<uint64_t>(at + 36), "the descriptor", name);
  extent.table_entries = load_le<uint32_t>(at + 44);
  extent.directory_offset = bytes_of(load_le<uint64_t>(at + 56), "the grain directory's offset", name);
  extent.zero_grains = (flags & kZeroGrains) != 0;
  extent.compressed = (flags & kCompressed) != 0;
  check_shape(extent, grain_sectors, kMaxTableEntries, file);
  const uint64_t first_grain = bytes_of(load_le<uint64_t>(at + 64), "the first grain's offset", name);
  if (first_grain > file.length_bytes())
    fail(ErrorKind::kCorrupt, "'{}': the grains should start at {}, but the file ends at {}: it is truncated",
         name, first_grain, file.length_bytes());
  return extent;
}

// ESX's: no descriptor, no compression, longer tables.
VmdkSparse decode_esx(ConstBytes header, const block::Device& file) {
  const std::byte* const at = header.data();
  const auto version = load_le<uint32_t>(at + 4);
  if (version != 1)
    fail(ErrorKind::kUnsupported, "'{}': version {} of ESX's sparse extents is not supported, 1 is",
         file.name(), version);
  const uint64_t grain_sectors = load_le<uint32_t>(at + 16);
  VmdkSparse extent;
  extent.length_bytes = uint64_t{load_le<uint32_t>(at + 12)} * kSectorBytes;
  extent.grain_bytes = std::min(grain_sectors, kMaxGrainSectors) * kSectorBytes;
  extent.table_entries = kEsxTableEntries;
  extent.directory_offset = uint64_t{load_le<uint32_t>(at + 20)} * kSectorBytes;
  check_shape(extent, grain_sectors, kEsxTableEntries, file);
  return extent;
}

bool is_marker(ConstBytes sector, Marker type) {
  return load_le<uint32_t>(sector.data() + 8) == 0 && load_le<uint32_t>(sector.data() + 12) == type;
}

// A stream ends with a marker, a copy of the header that knows where the grain directory is, and a marker.
io::task<void> read_footer(block::Device& file, Bytes header) {
  std::array<std::byte, 3 * kHeaderBytes> end;
  const uint64_t length = file.length_bytes();
  if (length < 2 * end.size())
    fail(ErrorKind::kCorrupt, "'{}' has no footer: the file is truncated", file.name());
  co_await file.read(length - end.size(), end);
  const ConstBytes footer = ConstBytes(end).subspan(kHeaderBytes, kHeaderBytes);
  if (!is_marker(end, kFooter) || !starts_with(footer, kMagic) ||
      !is_marker(ConstBytes(end).subspan(2 * kHeaderBytes), kEndOfStream))
    fail(ErrorKind::kCorrupt, "'{}' does not end with a footer, as a stream must: the file is truncated",
         file.name());
  std::ranges::copy(footer, header.begin());
}

struct FreeDecompressor {
  void operator()(libdeflate_decompressor* coder) const noexcept { libdeflate_free_decompressor(coder); }
};

// Gives the length of what came out; 0 for a damaged stream.
size_t inflate(ConstBytes stream, Bytes grain) {
  thread_local const std::unique_ptr<libdeflate_decompressor, FreeDecompressor> coder(
      libdeflate_alloc_decompressor());
  if (!coder) throw std::bad_alloc();
  size_t given = 0;
  const libdeflate_result result = libdeflate_zlib_decompress(coder.get(), stream.data(), stream.size(),
                                                              grain.data(), grain.size(), &given);
  return result == LIBDEFLATE_SUCCESS ? given : 0;
}

}  // namespace

bool is_vmdk_sparse(ConstBytes start) noexcept {
  return starts_with(start, kMagic) || starts_with(start, kEsxMagic);
}

io::task<VmdkSparse> read_vmdk_sparse(block::Device& file) {
  std::array<std::byte, kHeaderBytes> header;
  co_await read_structure(file, 0, header, "the header of a sparse extent");
  if (starts_with(header, kEsxMagic)) co_return decode_esx(header, file);
  if (!starts_with(header, kMagic))
    fail(ErrorKind::kCorrupt, "'{}' is no sparse extent of a VMDK: its signature is missing", file.name());
  if (load_le<uint64_t>(header.data() + 56) == kAtEnd) co_await read_footer(file, header);
  co_return decode(header, file);
}

io::task<Piece> locate_grain(const VmdkSparse& extent, block::Device& file, TableCache& tables,
                             uint64_t offset, uint64_t length) {
  const uint64_t span = extent.table_span_bytes();
  const uint64_t table_at = extent.directory_offset + offset / span * sizeof(uint32_t);
  Piece piece{.kind = Piece::Kind::kAbsent};
  const auto table = co_await tables.load_le_entry<uint32_t>(file, table_at);
  piece.length_bytes = std::min(length, span - offset % span);
  if (table == 0) co_return piece;

  const uint64_t grain = offset % span / extent.grain_bytes;
  const uint64_t within = offset % extent.grain_bytes;
  piece.length_bytes = std::min(length, extent.grain_bytes - within);
  const uint64_t entry_at = uint64_t{table} * kSectorBytes + grain * sizeof(uint32_t);
  const auto entry = co_await tables.load_le_entry<uint32_t>(file, entry_at);
  if (entry == 0) co_return piece;
  if (entry == 1 && extent.zero_grains) {
    piece.kind = Piece::Kind::kZero;
    co_return piece;
  }
  piece.kind = extent.compressed ? Piece::Kind::kCompressed : Piece::Kind::kStored;
  piece.file = &file;
  piece.file_offset = uint64_t{entry} * kSectorBytes + (extent.compressed ? 0 : within);
  co_return piece;
}

io::task<void> read_compressed_grain(const VmdkSparse& extent, block::Device& file, uint64_t grain_offset,
                                     uint64_t within, Bytes destination) {
  std::array<std::byte, kMarkerBytes> marker;
  co_await read_structure(file, grain_offset, marker, "a compressed grain");
  const auto stream_bytes = load_le<uint32_t>(marker.data() + 8);
  // Deflate makes nothing longer by more than a few bytes a block; twice the grain is more than any needs.
  if (stream_bytes == 0 || stream_bytes > 2 * extent.grain_bytes)
    fail(ErrorKind::kCorrupt, "'{}': the compressed grain at {} says that it has {} bytes", file.name(),
         grain_offset, stream_bytes);
  AlignedBuffer stream(stream_bytes);
  co_await read_structure(file, grain_offset + kMarkerBytes, stream.bytes(), "a compressed grain");
  AlignedBuffer grain(extent.grain_bytes);
  const size_t given = inflate(stream.bytes(), grain.bytes());
  if (!range_within(within, destination.size(), given))
    fail(ErrorKind::kCorrupt, "'{}': the compressed grain at {} is damaged", file.name(), grain_offset);
  std::copy_n(grain.data() + within, destination.size(), destination.data());
}

}  // namespace cofre::foreign
