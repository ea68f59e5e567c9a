#include "format/qcow2/bitmap_actions.h"

#include <bit>

#include "base/error.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

// The bitmaps of an image that takes changes.
io::task<void> begin(State& state) {
  if (state.options.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", state.name);
  state.require_usable();
  co_await state.bitmaps.follow_tables();
}

BitmapEntry new_entry(const State& state, std::string name, std::optional<uint64_t> granularity_bytes) {
  if (name.empty()) fail(ErrorKind::kInvalidArgument, "Bitmap name cannot be empty");
  if (name.size() > kMostBitmapNameBytes)
    fail(ErrorKind::kInvalidArgument, "Name length exceeds maximum ({} characters): this one has {}",
         kMostBitmapNameBytes, name.size());
  const uint64_t granularity =
      granularity_bytes.value_or(uint64_t{1} << default_bitmap_granularity_bits(state.header.cluster_bits));
  if (!std::has_single_bit(granularity) || granularity >> kMinBitmapGranularityBits == 0 ||
      granularity >> kMaxBitmapGranularityBits > 1)
    fail(ErrorKind::kInvalidArgument,
         "Granularity must be power of 2 and at least 512 (and at most 2 GiB): {} is not", granularity);
  if (state.header.version < 3)
    fail(ErrorKind::kUnsupported,
         "Cannot store dirty bitmaps in qcow2 v2 files: '{}' needs compat=1.1 (amend)", state.name);
  if (state.length_bytes == 0)
    fail(ErrorKind::kInvalidArgument, "'{}': a disk of no bytes has no bitmaps", state.name);
  return {.flags = kBitmapAuto,
          .granularity_bits = static_cast<uint8_t>(std::countr_zero(granularity)),
          .name = std::move(name)};
}

// Refuses now what could not be stored later.
void check_room(const State& state, const BitmapEntry& entry) {
  uint64_t directory_bytes = bitmap_entry_bytes(entry);
  for (const auto& bitmap : state.bitmaps.list()) {
    if (bitmap->entry.name == entry.name) fail(ErrorKind::kExists, "Bitmap already exists: {}", entry.name);
    directory_bytes += bitmap_entry_bytes(bitmap->entry);
  }
  if (state.bitmaps.list().size() >= kMostBitmaps || directory_bytes > kMostBitmapDirectoryBytes)
    fail(ErrorKind::kLimit, "Maximum number of persistent bitmaps is already reached: {} in {} bytes",
         state.bitmaps.list().size(), directory_bytes);
  Header header = state.header;
  header.bitmaps = BitmapsPlace{};
  header.feature_names.clear();  // given up where they leave no room
  encode_header(header);
}

io::task<void> add(State& state, std::string name, std::optional<uint64_t> granularity_bytes) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  BitmapEntry entry = new_entry(state, std::move(name), granularity_bytes);
  check_room(state, entry);
  state.bitmaps.append(std::move(entry));
}

io::task<void> remove(State& state, std::string name) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  state.bitmaps.remove(state.bitmaps.find(name));
}

io::task<void> clear(State& state, std::string name) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  Bitmap* const bitmap = co_await state.bitmaps.usable(name);
  bitmap->bits->clear();
  bitmap->changed = true;
}

io::task<void> enable(State& state, std::string name, bool enabled) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  state.bitmaps.set_enabled(*co_await state.bitmaps.usable(name), enabled);
}

void merge_into(Bitmap& bitmap, const DirtyBitmap& source) {
  if (source.disk_bytes() != bitmap.bits->disk_bytes())
    fail(ErrorKind::kInvalidArgument,
         "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
         bitmap.bits->disk_bytes(), source.disk_bytes());
  bitmap.bits->merge(source);
  bitmap.changed = true;
}

io::task<void> merge_named(State& state, std::string name, std::string source_name) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  Bitmap* const bitmap = co_await state.bitmaps.usable(name);
  const Bitmap* const source = co_await state.bitmaps.usable(source_name);
  if (source != bitmap) merge_into(*bitmap, *source->bits);
}

io::task<void> merge_bits(State& state, std::string name, const DirtyBitmap& source) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await begin(state);
  merge_into(*co_await state.bitmaps.usable(name), source);
}

io::task<DirtyBitmap> read(State& state, std::string name) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  const Bitmap* const bitmap = co_await state.bitmaps.usable(name);
  DirtyBitmap copy(bitmap->bits->disk_bytes(), bitmap->bits->granularity_bits());
  copy.merge(*bitmap->bits);
  co_return copy;
}

io::task<const DirtyBitmap*> bits_of(State& state, std::string name) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  const Bitmap* const bitmap = co_await state.bitmaps.usable(name);
  co_return bitmap->bits.get();
}

}  // namespace

std::vector<BitmapEntry> bitmaps_of(Image& image) {
  const Bitmaps& bitmaps = image.state().bitmaps;
  bitmaps.require_sound();
  std::vector<BitmapEntry> entries;
  for (const auto& bitmap : bitmaps.list()) entries.push_back(bitmap->entry);
  return entries;
}

io::task<void> add_bitmap(Image& image, std::string name, std::optional<uint64_t> granularity_bytes) {
  return at_home(image.state(), add(image.state(), std::move(name), granularity_bytes));
}
io::task<void> remove_bitmap(Image& image, std::string name) {
  return at_home(image.state(), remove(image.state(), std::move(name)));
}
io::task<void> clear_bitmap(Image& image, std::string name) {
  return at_home(image.state(), clear(image.state(), std::move(name)));
}
io::task<void> enable_bitmap(Image& image, std::string name, bool enabled) {
  return at_home(image.state(), enable(image.state(), std::move(name), enabled));
}
io::task<void> merge_bitmap(Image& image, std::string name, std::string source_name) {
  return at_home(image.state(), merge_named(image.state(), std::move(name), std::move(source_name)));
}
io::task<void> merge_bitmap(Image& image, std::string name, const DirtyBitmap& source) {
  return at_home(image.state(), merge_bits(image.state(), std::move(name), source));
}
io::task<DirtyBitmap> read_bitmap(Image& image, std::string name) {
  return at_home(image.state(), read(image.state(), std::move(name)));
}
io::task<const DirtyBitmap*> live_bitmap(Image& image, std::string name) {
  return at_home(image.state(), bits_of(image.state(), std::move(name)));
}

}  // namespace cofre::qcow2
