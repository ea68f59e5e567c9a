// The order in which tables reach the disk, so that a crash between any two writes leaks clusters at most:
//
//   data and refcount blocks   -> barrier -> refcount table -> barrier -> L2 tables -> barrier -> L1 table
//   and only when all that is durable: clusters that nothing names any more lose their references.
//
// With lazy refcounts the dirty bit stands for the first step: refcounts are rebuilt after a crash.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kIncompatibleFeaturesAt = 72;
constexpr uint64_t kAutoclearFeaturesAt = 88;
constexpr size_t kMostRetired = 16384;

std::array<std::byte, 8> big_endian(uint64_t value) {
  std::array<std::byte, 8> bytes;
  store_be(bytes.data(), value);
  return bytes;
}

}  // namespace

io::task<void> State::write_header_fields(uint64_t offset, ConstBytes fields) {
  co_await file->write(offset, fields);
}

io::task<void> State::set_corrupt_bit() {
  damaged.store(true, std::memory_order_release);
  if (header.version < 3 || (header.incompatible_features & kCorrupt) != 0) co_return;
  header.incompatible_features |= kCorrupt;
  co_await write_header_fields(kIncompatibleFeaturesAt, big_endian(header.incompatible_features));
  co_await file->flush();
}

io::task<void> State::drop_autoclear_features(uint64_t kept) {
  kept &= header.autoclear_features;
  if (kept == header.autoclear_features) co_return;
  co_await write_header_fields(kAutoclearFeaturesAt, big_endian(kept));
  header.autoclear_features = kept;
  co_await file->flush();
}

io::task<void> State::prepare_to_change() {
  if (prepared_to_change && bitmaps.ready()) co_return;
  const io::Mutex::Guard guard = co_await metadata.lock();
  if (prepared_to_change && bitmaps.ready()) co_return;
  require_usable();
  co_await bitmaps.before_change();
  co_await note_snapshot_tables();
  // Unknown features may not be kept up here: their bits say so from now on.
  co_await drop_autoclear_features(kRawExternalData | (header.bitmaps ? uint64_t{kBitmaps} : 0));
  if (options.lazy_refcounts.value_or(header.lazy_refcounts()) && !refcounts_lazy) {
    co_await write_header_fields(kIncompatibleFeaturesAt, big_endian(header.incompatible_features | kDirty));
    co_await file->flush();
    header.incompatible_features |= kDirty;
    refcounts_lazy = true;
  }
  prepared_to_change = true;
}

io::task<void> State::prepare_to_rearrange() {
  require_usable();
  co_await note_snapshot_tables();
  co_await drop_autoclear_features(kKnownAutoclear);
  co_await settle();
}

io::task<void> State::settle() {
  require_usable();
  do {
    co_await write_back(/*durable=*/true);
  } while (l2_cache.has_dirty() || l1.dirty() || !retired.empty());
  prepared_to_change = false;
  if (!refcounts_lazy) co_return;
  co_await refcounts.cache().write_dirty();
  co_await refcounts.table().write_dirty(*file);
  co_await file->flush();
  header.incompatible_features &= ~uint64_t{kDirty};
  co_await write_header_fields(kIncompatibleFeaturesAt, big_endian(header.incompatible_features));
  refcounts_lazy = false;
}

io::task<void> State::file_barrier() {
  try {
    co_await file->flush();
  } catch (...) {
    unusable = true;
    throw;
  }
}

io::task<void> State::barrier() {
  if (external_data) co_await external_data->flush();
  co_await file_barrier();
}

io::task<void> State::write_back(bool durable) {
  const bool tables = l2_cache.has_dirty() || l1.dirty();
  if (!refcounts_lazy) {
    co_await refcounts.cache().write_dirty();
    if (tables || refcounts.table().dirty() || durable) co_await barrier();
    if (refcounts.table().dirty()) {
      file->raise(block::Event::kRefTableUpdate);
      co_await refcounts.table().write_dirty(*file);
      if (tables || durable) co_await file_barrier();
    }
  } else {
    // The dirty bit is set: they may reach the disk in any order, and have to only when they fill memory.
    if (refcounts.cache().should_write_back()) co_await refcounts.cache().write_dirty();
    if (tables || durable) co_await barrier();
  }
  co_await l2_cache.write_dirty();
  if (l1.dirty()) {
    co_await file_barrier();
    file->raise(block::Event::kL1Update);
    co_await l1.write_dirty(*file);
  }
  if (tables && (durable || !retired.empty())) co_await file_barrier();
  co_await release_retired();
}

// The file may end within the last cluster.
io::task<void> State::discard_host(uint64_t offset, uint64_t length) {
  const uint64_t end = std::min(offset + length, file->length_bytes());
  if (offset < end) co_await file->discard(offset, end - offset);
}

// Everything on disk no longer names these clusters: they lose their references.
io::task<void> State::release_retired() {
  if (retired.empty()) co_return;
  for (const Retired::Run& run : retired.turn()) {
    file->raise(block::Event::kClusterFree);
    co_await refcounts.adjust(run.host_offset, run.clusters, -1);
    uint64_t free = 0;  // clusters right before `offset`
    for (uint64_t i = 0; i < run.clusters; ++i) {
      const uint64_t offset = run.host_offset + i * cluster_bytes();
      const bool is_free = co_await refcounts.get(offset >> header.cluster_bits) == 0;
      if (is_free) metadata_map.remove(offset);
      free += is_free ? 1 : 0;
      if (free == 0 || (is_free && i + 1 < run.clusters)) continue;
      const uint64_t end = is_free ? offset + cluster_bytes() : offset;
      if (run.discard ? options.discard_unmap : options.discard_other)
        co_await discard_host(end - free * cluster_bytes(), free * cluster_bytes());
      free = 0;
    }
  }
  if (!refcounts_lazy) co_await refcounts.cache().write_dirty();
}

io::task<void> State::wait_for_transfers() {
  retired.retire({});  // no cluster: it is released when those that were retired now would be
  while (!retired.empty()) {
    co_await release_retired();
    if (!retired.empty()) co_await io::yield();
  }
}

bool State::needs_relief() noexcept {
  return l2_cache.should_write_back() || refcounts.cache().should_write_back() ||
         retired.size() > kMostRetired;
}

io::task<void> State::relieve() {
  if (needs_relief()) co_await write_back(/*durable=*/false);
}

void State::require_usable() const {
  if (unusable || refcounts.broken())
    fail(ErrorKind::kIo,
         "'{}': an update of the image's tables failed before; close the image and run check on it", name);
}

void State::fail_corrupt(const std::string& finding) const {
  fail(ErrorKind::kCorrupt, "'{}': {}. Run check on the image; if it cannot repair it, restore a backup",
       name, finding);
}

}  // namespace cofre::qcow2
