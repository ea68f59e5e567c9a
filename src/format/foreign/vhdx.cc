#include "format/foreign/vhdx.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

// The state of a block, in the low bits of its BAT entry ([MS-VHDX] 2.5.1.1).
enum State : uint64_t {
  kNotPresent = 0,
  kUndefined = 1,
  kZero = 2,
  kUnmapped = 3,
  kUnmappedEarly = 5,  // the same, before version 1.00 of the format
  kFullyPresent = 6,
};
constexpr uint64_t kStateMask = 7;
constexpr uint64_t kOffsetMask = ~uint64_t{kMiB - 1};

}  // namespace

bool is_vhdx(ConstBytes start) noexcept {
  return starts_with(start, "vhdxfile");
}

Vhdx::Vhdx(std::unique_ptr<block::Device> file, const VhdxLayout& layout)
    : Image(std::move(file)), layout_(layout) {
  set_length(layout.disk_bytes);
}

io::task<std::unique_ptr<Vhdx>> Vhdx::open(std::unique_ptr<block::Device> file) {
  const VhdxLayout layout = co_await read_vhdx_layout(*file);
  co_return std::unique_ptr<Vhdx>(new Vhdx(std::move(file), layout));
}

io::task<Piece> Vhdx::locate(uint64_t offset, uint64_t length) {
  const uint64_t block = offset / layout_.block_bytes;
  const uint64_t within = offset % layout_.block_bytes;
  const uint64_t at = layout_.table_offset + layout_.entry_index(block) * sizeof(uint64_t);
  const auto entry = co_await tables_.load_le_entry<uint64_t>(file(), at);
  Piece piece{.length_bytes = std::min(length, layout_.block_bytes - within)};
  switch (entry & kStateMask) {
    case kNotPresent:
    case kUndefined:  // what an unmapped block reads as is not defined: here as in QEMU, zero
    case kZero:
    case kUnmapped:
    case kUnmappedEarly:
      co_return piece;
    case kFullyPresent:
      break;
    default:
      fail(ErrorKind::kCorrupt, "'{}': block {} is in state {}, which an image without a parent has not",
           name(), block, entry & kStateMask);
  }
  const uint64_t start = entry & kOffsetMask;
  if (start > INT64_MAX)
    fail(ErrorKind::kCorrupt, "'{}': block {} lies at {}, beyond any file", name(), block, start);
  piece.kind = Piece::Kind::kStored;
  piece.file = &file();
  piece.file_offset = start + within;
  co_return piece;
}

}  // namespace cofre::foreign
