// Writing bitmaps out: bits and tables, then the directory.
#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/bitmaps.h"
#include "format/qcow2/header_update.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

bool all_ones(ConstBytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0xff}; });
}

}  // namespace

void Bitmaps::drop(uint64_t offset, uint64_t clusters) {
  if (clusters > 0) dropped_.push_back({offset, clusters, /*discard=*/true});
}

// What a damaged table names may be anybody's: that is left to check.
void Bitmaps::drop_all_of(const Bitmap& bitmap) {
  if (!bitmap.fault.empty()) return;
  for (const uint64_t value : bitmap.table)
    if ((value & kOffsetMask) != 0) drop(value & kOffsetMask, 1);
  drop(bitmap.entry.table_offset, div_ceil<uint64_t>(bitmap.table.size() * 8, state_.cluster_bytes()));
}

// Nothing else uses these clusters, as far as refcounts tell.
io::task<bool> Bitmaps::may_overwrite(uint64_t offset, uint64_t clusters) {
  const uint64_t first = offset >> state_.header.cluster_bits;
  for (uint64_t cluster = first; cluster < first + clusters; ++cluster)
    if (co_await state_.refcounts.get(cluster) != 1) co_return false;
  co_return true;
}

io::task<uint64_t> Bitmaps::place_of_bits(uint64_t old_entry) {
  const uint64_t old = old_entry & kOffsetMask;
  if (old != 0 && co_await may_overwrite(old, 1)) co_return old;
  if (old != 0) drop(old, 1);
  const ClusterRun run = co_await state_.refcounts.allocate(1);
  state_.metadata_map.add(run.host_offset);
  co_return run.host_offset;
}

// Writes the bits of a bitmap that is in use on disk, or not there yet; `table` will name them.
io::task<void> Bitmaps::write_bits(Bitmap& bitmap, std::vector<uint64_t>& table) {
  table.resize(table_entries(bitmap));
  AlignedBuffer piece(state_.cluster_bytes());
  for (uint64_t i = 0; i < table.size(); ++i) {
    const uint64_t old = i < bitmap.table.size() ? bitmap.table[i] : 0;
    bitmap.bits->save(i * state_.cluster_bytes(), piece.bytes());
    if (is_zero(piece.bytes()) || all_ones(piece.bytes())) {
      table[i] = piece.bytes()[0] == std::byte{0} ? 0 : kBitmapTableAllOnes;
      if ((old & kOffsetMask) != 0) drop(old & kOffsetMask, 1);
      continue;
    }
    table[i] = co_await place_of_bits(old);
    co_await state_.file->write(table[i], piece.bytes());
  }
  for (uint64_t i = table.size(); i < bitmap.table.size(); ++i)
    if ((bitmap.table[i] & kOffsetMask) != 0) drop(bitmap.table[i] & kOffsetMask, 1);
}

// The clusters that the table names are durable, and so are their refcounts.
io::task<void> Bitmaps::write_table(Bitmap& bitmap, std::vector<uint64_t> table) {
  const uint64_t clusters = div_ceil<uint64_t>(table.size() * 8, state_.cluster_bytes());
  const bool stays =
      table.size() == bitmap.table.size() && co_await may_overwrite(bitmap.entry.table_offset, clusters);
  uint64_t offset = bitmap.entry.table_offset;
  if (!stays) {
    drop(offset, div_ceil<uint64_t>(bitmap.table.size() * 8, state_.cluster_bytes()));
    offset = (co_await state_.refcounts.allocate_exactly(clusters)).host_offset;
    state_.metadata_map.add(offset, clusters << state_.header.cluster_bits);
    moved_ = true;
  }
  AlignedBuffer bytes(clusters << state_.header.cluster_bits);
  std::ranges::fill(bytes.bytes(), std::byte{0});
  for (uint64_t i = 0; i < table.size(); ++i) store_be(bytes.data() + i * 8, table[i]);
  co_await state_.file->write(offset, bytes.bytes());
  bitmap.entry.table_offset = offset;
  bitmap.entry.table_entries = static_cast<uint32_t>(table.size());
  bitmap.table = std::move(table);
}

// A directory in new clusters, and the header that names it.
io::task<void> Bitmaps::switch_directory() {
  std::vector<const BitmapEntry*> entries;
  for (const auto& bitmap : list_) entries.push_back(&bitmap->entry);
  std::vector<std::byte> directory = encode_bitmap_directory(entries);
  Header changed = state_.header;
  changed.bitmaps.reset();
  changed.autoclear_features &= ~uint64_t{kBitmaps};
  if (!entries.empty()) {
    const uint64_t clusters = div_ceil<uint64_t>(directory.size(), state_.cluster_bytes());
    const ClusterRun place = co_await state_.refcounts.allocate_exactly(clusters);
    state_.metadata_map.add(place.host_offset, clusters << state_.header.cluster_bits);
    AlignedBuffer padded(clusters << state_.header.cluster_bits);
    std::ranges::fill(padded.bytes(), std::byte{0});
    std::ranges::copy(directory, padded.data());
    co_await state_.file->write(place.host_offset, padded.bytes());
    changed.bitmaps = {static_cast<uint32_t>(entries.size()), directory.size(), place.host_offset};
    changed.autoclear_features |= kBitmaps;
  }
  co_await state_.write_back(/*durable=*/true);
  const std::optional<BitmapsPlace> old = directory_.empty() ? std::nullopt : state_.header.bitmaps;
  co_await update_header(state_, std::move(changed));
  if (old) drop(old->directory_offset, div_ceil(old->directory_bytes, state_.cluster_bytes()));
  directory_ = std::move(directory);
  size_t at = 0;
  for (const auto& bitmap : list_) {
    bitmap->entry_at = at;
    at += bitmap_entry_bytes(bitmap->entry);
  }
}

io::task<void> Bitmaps::write_bits_and_tables() {
  std::vector<Bitmap*> changed;
  for (const auto& bitmap : list_)
    if (bitmap->changed && bitmap->bits) changed.push_back(bitmap.get());
  co_await mark_in_use(changed);
  std::vector<std::vector<uint64_t>> tables(changed.size());
  for (size_t i = 0; i < changed.size(); ++i) co_await write_bits(*changed[i], tables[i]);
  co_await state_.write_back(/*durable=*/true);
  for (size_t i = 0; i < changed.size(); ++i) co_await write_table(*changed[i], std::move(tables[i]));
  co_await state_.write_back(/*durable=*/true);
}

io::task<void> Bitmaps::store() {
  if (!changed()) co_return;
  state_.require_usable();
  co_await write_bits_and_tables();
  if (moved_) {
    co_await switch_directory();
  } else {
    for (const auto& bitmap : list_) patch_flags(*bitmap, bitmap->entry.flags);
    co_await write_directory_in_place();
  }
  finish_store();
}

void Bitmaps::finish_store() {
  for (const auto& bitmap : removed_) drop_all_of(*bitmap);
  removed_.clear();
  for (const Retired::Run& run : dropped_) state_.retired.retire(run);
  dropped_.clear();
  for (const auto& bitmap : list_) bitmap->changed = bitmap->marked = false;
  moved_ = flags_changed_ = ready_ = false;
}

}  // namespace cofre::qcow2
