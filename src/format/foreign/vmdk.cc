#include "format/foreign/vmdk.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

constexpr uint64_t kProbeBytes = 512;

bool is_flat_type(std::string_view type) {
  return type == "FLAT" || type == "VMFS";
}

bool is_sparse_type(std::string_view type) {
  return type == "SPARSE" || type == "VMFSSPARSE";
}

}  // namespace

bool is_vmdk(ConstBytes start) noexcept {
  return is_vmdk_sparse(start) || is_vmdk_descriptor(start);
}

io::task<std::unique_ptr<Vmdk>> Vmdk::open(std::unique_ptr<block::Device> file,
                                           VmdkExtentOpener open_extent) {
  std::unique_ptr<Vmdk> image(new Vmdk(std::move(file)));
  std::array<std::byte, kProbeBytes> start;
  const Bytes there = Bytes(start).first(std::min(kProbeBytes, image->file().length_bytes()));
  co_await image->file().read(0, there);
  if (is_vmdk_sparse(there)) {
    co_await image->read_embedded();
  } else {
    co_await image->read_separate(std::move(open_extent));
  }
  co_return image;
}

// ---- extents ----

io::task<std::string> Vmdk::read_text(uint64_t offset, uint64_t length) {
  std::string text(std::min(length, kMaxVmdkDescriptorBytes), '\0');
  co_await read_structure(file(), offset, std::as_writable_bytes(std::span(text)), "the descriptor");
  co_return text;
}

io::task<void> Vmdk::read_embedded() {
  const VmdkSparse sparse = co_await read_vmdk_sparse(file());
  std::string text;
  if (sparse.descriptor_offset != 0)
    text = co_await read_text(sparse.descriptor_offset, sparse.descriptor_bytes);
  descriptor_ = parse_vmdk_descriptor(text, name());
  append({.type = "", .length_bytes = sparse.length_bytes, .file = &file(), .sparse = sparse});
}

io::task<void> Vmdk::read_separate(VmdkExtentOpener open_extent) {
  const uint64_t length = file().length_bytes();
  if (length > kMaxVmdkDescriptorBytes)
    fail(ErrorKind::kCorrupt, "'{}' is no VMDK: it has no header, and {} bytes are too many for a descriptor",
         name(), length);
  descriptor_ = parse_vmdk_descriptor(co_await read_text(0, length), name());
  if (descriptor_.extents.empty()) fail(ErrorKind::kCorrupt, "'{}': the descriptor names no extents", name());
  for (const VmdkExtentLine& line : descriptor_.extents) co_await add_extent(line, open_extent);
}

io::task<void> Vmdk::add_extent(const VmdkExtentLine& line, const VmdkExtentOpener& open_extent) {
  VmdkExtent extent{.type = line.type, .length_bytes = line.sectors * kSectorBytes};
  if (line.type == "ZERO") {
    append(extent);
    co_return;
  }
  if (!is_flat_type(line.type) && !is_sparse_type(line.type))
    fail(ErrorKind::kUnsupported,
         "'{}': extents of type {} are not supported; FLAT, SPARSE, ZERO, VMFS and VMFSSPARSE are", name(),
         line.type);
  check_vmdk_extent_name(line.name, name());
  try {
    files_.push_back(open_extent(line.name));
    extent.file = files_.back().get();
    if (is_sparse_type(line.type)) extent.sparse = co_await read_vmdk_sparse(*extent.file);
  } catch (const Error& error) {
    throw error.with_context(fmt::format("extent of '{}'", name()));
  }
  extent.flat_offset = line.offset_sectors * kSectorBytes;
  if (extent.sparse && extent.sparse->length_bytes != extent.length_bytes)
    fail(ErrorKind::kCorrupt, "'{}': the extent '{}' has {} bytes of the disk, the descriptor says {}",
         name(), line.name, extent.sparse->length_bytes, extent.length_bytes);
  if (!extent.sparse && !range_within(extent.flat_offset, extent.length_bytes, extent.file->length_bytes()))
    fail(ErrorKind::kCorrupt, "'{}': the extent '{}' ends at {}, before the descriptor says: it is truncated",
         name(), line.name, extent.file->length_bytes());
  append(extent);
}

void Vmdk::append(VmdkExtent extent) {
  extent.start = length_bytes();
  const std::optional<uint64_t> end = checked_add(extent.start, extent.length_bytes);
  if (!end || *end > INT64_MAX)
    fail(ErrorKind::kCorrupt, "'{}': together the extents are larger than any disk", name());
  extents_.push_back(std::move(extent));
  set_length(*end);
}

const VmdkExtent& Vmdk::extent_at(uint64_t offset) const noexcept {
  return *std::prev(std::ranges::upper_bound(extents_, offset, {}, &VmdkExtent::start));
}

// ---- reading ----

io::task<Piece> Vmdk::locate(uint64_t offset, uint64_t length) {
  const VmdkExtent& extent = extent_at(offset);
  const uint64_t within = offset - extent.start;
  length = std::min(length, extent.length_bytes - within);
  if (extent.sparse) co_return co_await locate_grain(*extent.sparse, *extent.file, tables_, within, length);
  if (extent.file == nullptr) co_return Piece{.length_bytes = length};
  co_return Piece{.kind = Piece::Kind::kStored,
                  .length_bytes = length,
                  .file = extent.file,
                  .file_offset = extent.flat_offset + within,
                  .whole_disk = true};
}

io::task<void> Vmdk::read_compressed(Piece piece, uint64_t offset, Bytes destination) {
  const VmdkExtent& extent = extent_at(offset);
  const uint64_t within = (offset - extent.start) % extent.sparse->grain_bytes;
  return read_compressed_grain(*extent.sparse, *piece.file, piece.file_offset, within, destination);
}

// ---- the rest ----

io::task<void> Vmdk::close() {
  for (const std::unique_ptr<block::Device>& extent : files_) co_await extent->close();
  co_await Image::close();
}

std::optional<uint64_t> Vmdk::allocated_bytes() const {
  std::optional<uint64_t> sum = Image::allocated_bytes();
  for (const std::unique_ptr<block::Device>& extent : files_) {
    const std::optional<uint64_t> part = extent->allocated_bytes();
    if (!sum || !part) return std::nullopt;
    *sum += *part;
  }
  return sum;
}

std::optional<uint64_t> Vmdk::cluster_bytes() const {
  const VmdkExtent& first = extents_.front();
  if (!first.sparse) return std::nullopt;
  for (const VmdkExtent& extent : extents_) {
    if (!extent.sparse || extent.sparse->grain_bytes != first.sparse->grain_bytes ||
        extent.sparse->compressed != first.sparse->compressed)
      return std::nullopt;
  }
  return first.sparse->grain_bytes;
}

}  // namespace cofre::foreign
