#include "format/foreign/vdi.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

constexpr uint64_t kHeaderBytes = 512;
constexpr uint32_t kSignature = 0xbeda107f;
constexpr uint32_t kVersion1_1 = 0x00010001;
constexpr uint32_t kDynamic = 1;
constexpr uint32_t kStatic = 2;
constexpr uint32_t kFirstUnallocated = 0xfffffffe;  // discarded; one more: never allocated
constexpr uint32_t kMinBlockBytes = 4 * kKiB;
constexpr uint32_t kMaxBlockBytes = 256 * kMiB;

// Offsets in the header.
constexpr size_t kSignatureAt = 0x40;
constexpr size_t kVersionAt = 0x44;
constexpr size_t kTypeAt = 0x4c;
constexpr size_t kTableAt = 0x154;
constexpr size_t kDataAt = 0x158;
constexpr size_t kSectorBytesAt = 0x168;
constexpr size_t kDiskBytesAt = 0x170;
constexpr size_t kBlockBytesAt = 0x178;
constexpr size_t kBlockExtraAt = 0x17c;
constexpr size_t kBlocksAt = 0x180;
constexpr size_t kLinkUuidAt = 0x1a8;  // the parent's, then the one of its last change
constexpr size_t kLinkBytes = 32;

void check_kind(ConstBytes header, const std::string& name) {
  if (!is_vdi(header)) fail(ErrorKind::kCorrupt, "'{}' is no VDI image: its signature is missing", name);
  const auto version = load_le<uint32_t>(header.data() + kVersionAt);
  if (version != kVersion1_1)
    fail(ErrorKind::kUnsupported, "'{}': VDI version {}.{} is not supported, 1.1 is", name, version >> 16,
         version & 0xffff);
  const auto type = load_le<uint32_t>(header.data() + kTypeAt);
  const bool linked = !is_zero(header.subspan(kLinkUuidAt, kLinkBytes));
  if (linked || (type != kDynamic && type != kStatic))
    fail(ErrorKind::kUnsupported,
         "'{}' is a differencing or undo VDI image (type {}): merge it into its parent first "
         "(VBoxManage clonemedium)",
         name, type);
  if (load_le<uint32_t>(header.data() + kSectorBytesAt) != kSectorBytes)
    fail(ErrorKind::kUnsupported, "'{}': a VDI image with sectors that have not 512 bytes", name);
}

void check_shape(const VdiHeader& header, uint32_t extra_bytes, uint64_t blocks, const std::string& name) {
  if (header.block_bytes < kMinBlockBytes || header.block_bytes > kMaxBlockBytes ||
      !std::has_single_bit(header.block_bytes) || extra_bytes != 0)
    fail(ErrorKind::kUnsupported, "'{}': blocks of {} bytes and {} more are not supported", name,
         header.block_bytes, extra_bytes);
  if (!is_aligned<uint64_t>(header.table_offset, kSectorBytes) ||
      !is_aligned<uint64_t>(header.data_offset, kSectorBytes))
    fail(ErrorKind::kCorrupt, "'{}': the table at {} or the data at {} do not start at a sector", name,
         header.table_offset, header.data_offset);
  if (header.disk_bytes > blocks * header.block_bytes)
    fail(ErrorKind::kCorrupt, "'{}': {} blocks of {} bytes are too few for a disk of {} bytes", name, blocks,
         header.block_bytes, header.disk_bytes);
}

VdiHeader decode(ConstBytes bytes, const block::Device& file) {
  check_kind(bytes, file.name());
  const auto disk_bytes = load_le<uint64_t>(bytes.data() + kDiskBytesAt);
  if (disk_bytes > INT64_MAX - kSectorBytes)
    fail(ErrorKind::kCorrupt, "'{}': no disk has {} bytes", file.name(), disk_bytes);
  const VdiHeader header{.is_static = load_le<uint32_t>(bytes.data() + kTypeAt) == kStatic,
                         .table_offset = load_le<uint32_t>(bytes.data() + kTableAt),
                         .data_offset = load_le<uint32_t>(bytes.data() + kDataAt),
                         .disk_bytes = align_up<uint64_t>(disk_bytes, kSectorBytes),
                         .block_bytes = load_le<uint32_t>(bytes.data() + kBlockBytesAt)};
  const uint64_t blocks = load_le<uint32_t>(bytes.data() + kBlocksAt);
  check_shape(header, load_le<uint32_t>(bytes.data() + kBlockExtraAt), blocks, file.name());
  if (!range_within(header.table_offset, blocks * sizeof(uint32_t), file.length_bytes()))
    fail(ErrorKind::kCorrupt, "'{}': its table of {} blocks goes beyond the file's end: it is truncated",
         file.name(), blocks);
  return header;
}

}  // namespace

bool is_vdi(ConstBytes start) noexcept {
  return start.size() >= kSignatureAt + 4 && load_le<uint32_t>(start.data() + kSignatureAt) == kSignature;
}

Vdi::Vdi(std::unique_ptr<block::Device> file, const VdiHeader& header)
    : Image(std::move(file)), header_(header) {
  set_length(header.disk_bytes);
}

io::task<std::unique_ptr<Vdi>> Vdi::open(std::unique_ptr<block::Device> file) {
  std::array<std::byte, kHeaderBytes> bytes;
  co_await read_structure(*file, 0, bytes, "the VDI header");
  const VdiHeader header = decode(bytes, *file);
  co_return std::unique_ptr<Vdi>(new Vdi(std::move(file), header));
}

io::task<Piece> Vdi::locate(uint64_t offset, uint64_t length) {
  const uint64_t within = offset % header_.block_bytes;
  const uint64_t at = header_.table_offset + offset / header_.block_bytes * sizeof(uint32_t);
  Piece piece{.length_bytes = std::min(length, header_.block_bytes - within)};
  const auto block = co_await tables_.load_le_entry<uint32_t>(file(), at);
  if (block >= kFirstUnallocated) co_return piece;
  piece.kind = Piece::Kind::kStored;
  piece.file = &file();
  piece.file_offset = header_.data_offset + uint64_t{block} * header_.block_bytes + within;
  piece.whole_disk = header_.is_static;
  co_return piece;
}

}  // namespace cofre::foreign
