#include "format/qcow2/bitmaps.h"

#include <algorithm>
#include <array>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/read_padded.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

// Of all bitmaps that are loaded, if every bit of theirs were dirty.
constexpr uint64_t kMostBytesInMemory = kGiB;
constexpr uint64_t kAutoclearFeaturesAt = 88;
// Of all tables of an image: more than those of as many bitmaps as fit in memory.
constexpr uint64_t kMostTableEntries = 8 * kMiB;

}  // namespace

// ---- directory ----

io::task<void> Bitmaps::read_directory() {
  const Header& header = state_.header;
  if (!header.bitmaps || (header.autoclear_features & kBitmaps) == 0) co_return;
  const BitmapsPlace place = *header.bitmaps;
  try {
    if (place.count == 0 || place.count > kMostBitmaps || place.directory_bytes > kMostBitmapDirectoryBytes ||
        place.directory_offset == 0 || !is_aligned(place.directory_offset, header.cluster_bytes()) ||
        !range_within(place.directory_offset, place.directory_bytes, state_.file->length_bytes()))
      fail(ErrorKind::kCorrupt,
           "'{}': {} bitmaps in a directory of {} bytes at offset {} cannot be, or end past the file's end",
           state_.name, place.count, place.directory_bytes, place.directory_offset);
    directory_.resize(place.directory_bytes);
    co_await state_.file->read(place.directory_offset, directory_);
    size_t at = 0;
    for (BitmapEntry& entry : decode_bitmap_directory(directory_, place.count, state_.name)) {
      const size_t length = bitmap_entry_bytes(entry);
      list_.push_back(std::make_unique<Bitmap>(Bitmap{.entry = std::move(entry), .entry_at = at}));
      at += length;
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    list_.clear();
    directory_.clear();
    fault_ = error.what();
  }
}

void Bitmaps::require_sound() const {
  if (!fault_.empty())
    fail(ErrorKind::kCorrupt, "{}. Repair it with check -r all, which drops all bitmaps of such a directory",
         fault_);
}

io::task<void> Bitmaps::give_up_directory() {
  const uint64_t features = state_.header.autoclear_features & ~uint64_t{kBitmaps};
  std::array<std::byte, 8> field;
  store_be(field.data(), features);
  co_await state_.write_header_fields(kAutoclearFeaturesAt, field);
  co_await state_.file_barrier();
  state_.header.autoclear_features = features;
  fault_.clear();
  list_.clear();
  directory_.clear();
  find_followers();
}

Bitmap& Bitmaps::find(const std::string& name) {
  const auto found = std::ranges::find_if(list_, [&](const auto& b) { return b->entry.name == name; });
  if (found == list_.end()) fail(ErrorKind::kNotFound, "Dirty bitmap '{}' not found", name);
  return **found;
}

// ---- tables ----

uint64_t Bitmaps::table_entries(const Bitmap& bitmap) const noexcept {
  return bitmap_table_entries(state_.length_bytes, bitmap.entry.granularity_bits, state_.cluster_bytes());
}

io::task<void> Bitmaps::read_table(Bitmap& bitmap) {
  const BitmapEntry& entry = bitmap.entry;
  const uint64_t bytes = uint64_t{entry.table_entries} * 8;
  if (entry.table_offset == 0 || !is_aligned(entry.table_offset, state_.cluster_bytes()) ||
      !range_within(entry.table_offset, bytes, state_.file->length_bytes())) {
    bitmap.fault = fmt::format("its table at offset {} with {} entries does not lie in clusters of the file",
                               entry.table_offset, entry.table_entries);
    co_return;
  }
  std::vector<std::byte> table(bytes);
  co_await state_.file->read(entry.table_offset, table);
  bitmap.table.resize(entry.table_entries);
  for (uint64_t i = 0; i < entry.table_entries; ++i) {
    const auto value = load_be<uint64_t>(table.data() + i * 8);
    const uint64_t offset = value & kOffsetMask;
    const bool known = (value & kBitmapTableReservedMask) == 0 &&
                       (offset == 0 || (value & kBitmapTableAllOnes) == 0) &&
                       is_aligned(offset, state_.cluster_bytes()) && offset < state_.file->length_bytes();
    if (!known && bitmap.fault.empty())
      bitmap.fault =
          fmt::format("entry {} of its table at offset {} cannot be: {:#018x}", i, entry.table_offset, value);
    bitmap.table[i] = value;
  }
}

// Whether no other metadata lies there. Then this does.
bool Bitmaps::claim(uint64_t offset, uint64_t length) {
  if (length == 0) return true;
  if (state_.metadata_map.overlaps(offset, length)) return false;
  state_.metadata_map.add(offset, length);
  return true;
}

io::task<void> Bitmaps::follow_table(Bitmap& bitmap) {
  if (bitmap.table.empty()) co_await read_table(bitmap);
  if (!bitmap.fault.empty()) co_return;
  if (!claim(bitmap.entry.table_offset, bitmap.table.size() * 8)) {
    bitmap.fault = fmt::format("its table at offset {} lies in other metadata", bitmap.entry.table_offset);
    co_return;
  }
  for (const uint64_t value : bitmap.table) {
    const uint64_t offset = value & kOffsetMask;
    if (offset == 0 || claim(offset, state_.cluster_bytes())) continue;
    bitmap.fault = fmt::format("its bits at offset {} lie in other metadata", offset);
    co_return;
  }
}

io::task<void> Bitmaps::follow_tables() {
  require_sound();
  if (followed_) co_return;
  uint64_t entries = 0;
  for (const auto& bitmap : list_) entries += bitmap->entry.table_entries;
  if (entries > kMostTableEntries)
    fail(ErrorKind::kLimit, "'{}': the tables of its bitmaps have {} entries; at most {} make sense",
         state_.name, entries, kMostTableEntries);
  if (!directory_.empty() && !claim(state_.header.bitmaps->directory_offset, directory_.size())) {
    fault_ = fmt::format("'{}': the bitmap directory at offset {} lies in other metadata", state_.name,
                         state_.header.bitmaps->directory_offset);
    require_sound();
  }
  for (const auto& bitmap : list_) co_await follow_table(*bitmap);
  followed_ = true;
}

// ---- bits ----

void Bitmaps::check_memory(uint64_t more_bytes) const {
  uint64_t total = more_bytes;
  for (const auto& bitmap : list_) total += bitmap->bits ? bitmap->bits->byte_count() : 0;
  if (more_bytes > kMostBitmapBytes || total > kMostBytesInMemory)
    fail(ErrorKind::kLimit,
         "'{}': too much space will be occupied by a bitmap of {} bytes; {} in one and {} in all are "
         "allowed: use larger granularity",
         state_.name, more_bytes, kMostBitmapBytes, kMostBytesInMemory);
}

io::task<void> Bitmaps::load(Bitmap& bitmap) {
  if (bitmap.bits) co_return;
  const BitmapEntry& entry = bitmap.entry;
  check_memory(bitmap_bytes(state_.length_bytes, entry.granularity_bits));
  if (entry.table_entries != table_entries(bitmap))  // also where they are far too many to be read
    bitmap.fault = fmt::format("its table has {} entries, not {}", entry.table_entries, table_entries(bitmap));
  if (bitmap.fault.empty() && bitmap.table.empty()) co_await read_table(bitmap);
  if (!bitmap.fault.empty())
    fail(ErrorKind::kCorrupt, "Bitmap '{}' of '{}' is damaged and can only be removed: {}", entry.name,
         state_.name, bitmap.fault);
  auto bits = std::make_unique<DirtyBitmap>(state_.length_bytes, entry.granularity_bits);
  AlignedBuffer piece(state_.cluster_bytes());
  for (uint64_t i = 0; i < bitmap.table.size(); ++i) {
    const uint64_t offset = bitmap.table[i] & kOffsetMask;
    if (bitmap.table[i] == 0) continue;
    std::ranges::fill(piece.bytes(), std::byte{0xff});
    if (offset != 0) co_await read_padded(*state_.file, offset, piece.bytes());
    bits->load(i * state_.cluster_bytes(), piece.bytes());
  }
  bitmap.bits = std::move(bits);
}

io::task<Bitmap*> Bitmaps::usable(const std::string& name) {
  require_sound();
  Bitmap& bitmap = find(name);
  if (!bitmap.consistent())
    fail(ErrorKind::kInvalidArgument,
         "Bitmap '{}' is inconsistent and cannot be used: the image was not closed after its last change. It "
         "can only be removed (bitmap --remove)",
         name);
  if (!bitmap.entry.understood())
    fail(ErrorKind::kUnsupported,
         "Bitmap '{}' of '{}' is of a kind that is not known here (type {}, flags {:#x}, {} bytes of extra "
         "data); it can only be removed",
         name, state_.name, bitmap.entry.type, bitmap.entry.flags, bitmap.entry.extra.size());
  co_await load(bitmap);
  co_return &bitmap;
}

// ---- following the disk ----

uint32_t Bitmaps::flags_on_disk(const Bitmap& bitmap) const noexcept {
  return load_be<uint32_t>(directory_.data() + *bitmap.entry_at + kBitmapFlagsAt);
}

void Bitmaps::patch_flags(const Bitmap& bitmap, uint32_t flags) noexcept {
  store_be(directory_.data() + *bitmap.entry_at + kBitmapFlagsAt, flags);
}

// Only flags change, each of which lies within a sector: however much of this a crash leaves, each bitmap's
// entry is the old one or the new one.
io::task<void> Bitmaps::write_directory_in_place() {
  co_await state_.file->write(state_.header.bitmaps->directory_offset, directory_);
  co_await state_.file_barrier();
}

// Also one that was removed or disabled since: on disk it is not, until all is stored.
bool Bitmaps::promises(const Bitmap& bitmap) const noexcept {
  if (!bitmap.entry_at || bitmap.marked) return false;
  const uint32_t flags = flags_on_disk(bitmap);
  return (flags & kBitmapInUse) == 0 && ((flags & kBitmapAuto) != 0 || bitmap.follows());
}

io::task<void> Bitmaps::mark_in_use(std::vector<Bitmap*> bitmaps) {
  std::erase_if(bitmaps, [](const Bitmap* bitmap) { return !bitmap->entry_at || bitmap->marked; });
  if (bitmaps.empty()) co_return;
  for (const Bitmap* bitmap : bitmaps) patch_flags(*bitmap, flags_on_disk(*bitmap) | kBitmapInUse);
  co_await write_directory_in_place();
  for (Bitmap* bitmap : bitmaps) bitmap->marked = true;
}

// Of one that is damaged: it is inconsistent from now on, and before_change() says so on disk.
io::task<void> Bitmaps::load_follower(Bitmap& bitmap) {
  if (!bitmap.entry.understood())
    fail(ErrorKind::kUnsupported,
         "'{}' cannot be written to: its bitmap '{}', of a kind that is not known here, is to note every "
         "change. Remove it first (bitmap --remove)",
         state_.name, bitmap.entry.name);
  try {
    co_await load(bitmap);
    bitmap.changed = true;
  } catch (const Error&) {
    if (bitmap.fault.empty()) throw;
  }
}

io::task<void> Bitmaps::before_change() {
  co_await follow_tables();
  std::vector<Bitmap*> marking;
  for (const auto& bitmap : list_) {
    if (bitmap->follows()) co_await load_follower(*bitmap);
    if (promises(*bitmap)) marking.push_back(bitmap.get());
  }
  for (const auto& bitmap : removed_)
    if (promises(*bitmap)) marking.push_back(bitmap.get());
  co_await mark_in_use(std::move(marking));
  for (const auto& bitmap : list_)
    if (bitmap->follows() && !bitmap->fault.empty()) bitmap->entry.flags |= kBitmapInUse;
  find_followers();
  ready_ = true;
}

void Bitmaps::find_followers() {
  tracked_.clear();
  for (const auto& bitmap : list_)
    if (bitmap->follows() && bitmap->bits) tracked_.push_back(bitmap->bits.get());
}

void Bitmaps::note(uint64_t begin, uint64_t end) noexcept {
  for (DirtyBitmap* bits : tracked_) bits->set(begin, std::min(end, bits->disk_bytes()));
}

io::task<void> Bitmaps::before_resize(uint64_t length_bytes) {
  co_await follow_tables();
  for (const auto& bitmap : list_) co_await usable(bitmap->entry.name);
  for (const auto& bitmap : list_)
    if (bitmap_bytes(length_bytes, bitmap->entry.granularity_bits) > kMostBitmapBytes)
      fail(ErrorKind::kLimit,
           "'{}': a disk of {} bytes is too large for the granularity of its bitmap '{}': remove it first",
           state_.name, length_bytes, bitmap->entry.name);
  std::vector<Bitmap*> all;
  for (const auto& bitmap : list_) all.push_back(bitmap.get());
  co_await mark_in_use(std::move(all));
  for (const auto& bitmap : list_) {
    bitmap->changed = true;
    if (length_bytes > bitmap->bits->disk_bytes()) bitmap->bits->resize(length_bytes);
  }
}

void Bitmaps::resized() {
  for (const auto& bitmap : list_)
    if (bitmap->bits && bitmap->bits->disk_bytes() != state_.length_bytes)
      bitmap->bits->resize(state_.length_bytes);
}

// ---- the list ----

// What changes here has its followers found anew, and what they promise on disk, before the disk changes
// next.

Bitmap& Bitmaps::append(BitmapEntry entry) {
  check_memory(bitmap_bytes(state_.length_bytes, entry.granularity_bits));
  auto bitmap = std::make_unique<Bitmap>(Bitmap{.entry = std::move(entry), .changed = true});
  bitmap->bits = std::make_unique<DirtyBitmap>(state_.length_bytes, bitmap->entry.granularity_bits);
  list_.push_back(std::move(bitmap));
  moved_ = true;
  ready_ = false;
  return *list_.back();
}

void Bitmaps::remove(Bitmap& bitmap) {
  const auto at = std::ranges::find_if(list_, [&](const auto& b) { return b.get() == &bitmap; });
  if (bitmap.entry_at) {
    moved_ = true;
    removed_.push_back(std::move(*at));
  }
  list_.erase(at);
  ready_ = false;
  find_followers();
}

io::task<void> Bitmaps::remove_all() {
  co_await follow_tables();
  while (!list_.empty()) remove(*list_.front());
  co_await store();
}

void Bitmaps::set_enabled(Bitmap& bitmap, bool enabled) {
  if (bitmap.entry.enabled() == enabled) return;
  bitmap.entry.flags ^= kBitmapAuto;
  flags_changed_ = true;
  ready_ = false;
  find_followers();
}

bool Bitmaps::changed() const noexcept {
  return moved_ || flags_changed_ ||
         std::ranges::any_of(list_, [](const auto& b) { return b->changed || b->marked; });
}

}  // namespace cofre::qcow2
