// Changing the disk's size: growing it, and filling its mapping ahead of use.
#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/at_home.h"

namespace cofre::qcow2 {

uint64_t State::l1_entries_for(uint64_t length) const {
  const uint64_t entries = div_ceil(length, bytes_per_l2_table);
  if (entries > kMaxL1Bytes / 8)
    fail(ErrorKind::kLimit, "'{}': {} bytes of disk and VM state are too many for clusters of {} bytes", name,
         length, cluster_bytes());
  return entries;
}

// On disk first, then named by the header, then the old one is given up.
io::task<void> State::grow_l1(uint64_t entries) {
  const uint64_t old_offset = l1.offset();
  const uint64_t old_clusters = div_ceil(l1.size() * 8, cluster_bytes());
  const uint64_t clusters = div_ceil(entries * 8, cluster_bytes());
  co_await write_back(/*durable=*/true);
  const ClusterRun place = co_await refcounts.allocate_exactly(clusters);
  std::vector<uint64_t> values = l1.values();
  values.resize(entries);
  DiskTable longer;
  longer.assign(place.host_offset, std::move(values));
  co_await longer.write_whole(*file, clusters << header.cluster_bits);
  co_await write_back(/*durable=*/true);  // the refcounts of the new place
  std::array<std::byte, 12> fields;       // offsets 36 (entries) and 40 (place) of the header
  store_be(fields.data(), static_cast<uint32_t>(entries));
  store_be(fields.data() + 4, place.host_offset);
  co_await write_header_fields(36, fields);
  co_await file->flush();
  l1 = std::move(longer);
  header.l1_entries = static_cast<uint32_t>(entries);
  header.l1_table_offset = place.host_offset;
  metadata_map.add(place.host_offset, entries * 8);
  if (old_clusters > 0) retired.retire({old_offset, old_clusters, false});
}

namespace {

// VM state behind the disk's end, which applying a snapshot brings back, would become part of a longer disk.
bool has_vm_state(const State& state) {
  const std::vector<uint64_t>& entries = state.l1.values();
  const uint64_t first = std::min<uint64_t>(state.l1_index(state.vm_state_start()), entries.size());
  return std::any_of(entries.begin() + static_cast<ptrdiff_t>(first), entries.end(),
                     [](uint64_t entry) { return (entry & kOffsetMask) != 0; });
}

io::task<void> make_room(State& state, uint64_t length) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  state.require_usable();
  const uint64_t entries = state.l1_entries_for(length);
  if (entries > state.l1.size()) co_await state.grow_l1(entries);
}

// Where bytes may lie behind the disk's end that a longer disk would show: in its last cluster, in a longer
// file below, in the VM state.
uint64_t hidden_end(const State& state) {
  uint64_t end = state.cluster_end(state.length_bytes);
  if (state.backing) end = std::max(end, state.backing->length_bytes());
  if (state.external_data) end = std::max(end, state.external_data->length_bytes());
  if (has_vm_state(state)) end = std::max(end, state.l1.size() * state.bytes_per_l2_table);
  return end;
}

io::task<void> grow_data_file(State& state, uint64_t length) {
  if (!state.external_data || state.external_data->length_bytes() >= length) co_return;
  co_await state.external_data->resize(length);
  co_await state.external_data->flush();
}

// New bytes read as zero. Before the header says that they are there, or a crash would show what is hidden.
// Where nothing is hidden they stay unmapped.
io::task<void> zero_new_bytes(State& state, uint64_t begin, uint64_t end) {
  if (begin >= end) co_return;
  if (state.backing == nullptr) co_return co_await state.zero_stored(begin, end, /*may_unmap=*/true);
  co_await state.zero_range(state.home, begin, end - begin, /*may_unmap=*/true);
}

io::task<void> grow(State& state, uint64_t length) {
  const uint64_t old_length = state.length_bytes;
  const uint64_t hidden = hidden_end(state);
  co_await make_room(state, length);
  co_await grow_data_file(state, length);
  state.length_bytes = length;
  try {
    co_await zero_new_bytes(state, old_length, std::min(hidden, length));
    // A data file that is to be read as a raw image holds every cluster in its place.
    if (state.header.raw_external_data())
      co_await state.preallocate(align_up(old_length, state.cluster_bytes()), Preallocation::kMetadata);
    const io::Mutex::Guard guard = co_await state.metadata.lock();
    co_await state.write_size(length);
  } catch (...) {
    state.length_bytes = old_length;
    throw;
  }
}

// How many clusters from `guest` on have no host cluster.
io::task<uint64_t> unmapped_clusters(State& state, uint64_t guest, uint64_t end) {
  uint64_t clusters = 0;
  for (; guest < end; guest += state.cluster_bytes(), ++clusters) {
    const L2Entry entry = co_await state.entry_at(guest);
    if (entry.compressed() || has_host_cluster(entry, state.header)) break;
  }
  co_return clusters;
}

// Maps every cluster of [guest, end) that has no host cluster yet. All clusters lie within one L2 table.
io::task<void> map_clusters(State& state, uint64_t guest, uint64_t end, bool as_zero, Preallocation mode) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  state.require_usable();
  while (guest < end) {
    const L2Entry old = co_await state.entry_at(guest);
    if (old.compressed() || has_host_cluster(old, state.header)) {
      guest += state.cluster_bytes();
      continue;
    }
    co_await state.writable_slice(guest);
    ClusterRun run{guest, co_await unmapped_clusters(state, guest, end), false};
    if (!state.external_data) run = co_await state.refcounts.allocate(run.clusters);
    const uint64_t bytes = run.clusters << state.header.cluster_bits;
    // A data file ends where the disk ends, be it within a cluster.
    const uint64_t stored = state.external_data ? std::min(bytes, state.length_bytes - guest) : bytes;
    const bool reserve = mode != Preallocation::kMetadata;
    co_await state.data().write_zeroes(run.host_offset, stored, {.may_unmap = !reserve, .reserve = reserve});
    for (uint64_t at = 0; at < bytes; at += state.cluster_bytes()) {
      const SlicePtr slice = co_await state.writable_slice(guest + at);
      const L2Entry before = state.entry_in(*slice, guest + at);
      L2Entry entry{(run.host_offset + at) | kCopiedFlag, before.bitmap};
      if (!state.header.extended_l2() && as_zero) entry.word |= kZeroFlag;
      state.set_entry(*slice, guest + at, entry);
    }
    guest += bytes;
  }
  co_await state.relieve();
}

io::task<void> preallocate_at_home(State& state, Preallocation mode, uint64_t begin) {
  co_await state.prepare_to_change();
  // The cluster in which a disk that grew had ended holds new bytes, too, but what a backing file shows of
  // the old ones is not to be hidden.
  const bool whole = state.backing != nullptr;
  co_await state.preallocate(
      whole ? align_up(begin, state.cluster_bytes()) : align_down(begin, state.cluster_bytes()), mode);
}

io::task<void> prepare_bitmaps(State& state, uint64_t length) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await state.bitmaps.before_resize(length);
}

io::task<void> resize_at_home(State& state, uint64_t length) {
  co_await state.prepare_to_change();
  co_await prepare_bitmaps(state, length);
  std::exception_ptr failure;
  try {
    if (length > state.length_bytes) co_await grow(state, length);
    if (length < state.length_bytes) co_await state.shrink(length);
  } catch (...) {
    failure = std::current_exception();
  }
  state.bitmaps.resized();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

io::task<void> State::write_size(uint64_t length) {
  require_usable();
  co_await write_back(/*durable=*/true);
  std::array<std::byte, 8> field;
  store_be(field.data(), length);
  co_await write_header_fields(24, field);
  co_await file_barrier();
  header.size_bytes = length_bytes = length;
}

io::task<void> State::preallocate(uint64_t begin, Preallocation mode) {
  // Zeros on the disk are not zeros to a cipher, and a backing file must not be hidden: such clusters keep
  // reading as what they are until they are written.
  const bool as_zero = header.crypt_method != CryptMethod::kNone;
  if (as_zero && header.version < 3)
    fail(ErrorKind::kUnsupported, "'{}': preallocation of an encrypted image needs compat=1.1", name);
  const uint64_t end = align_up(length_bytes, cluster_bytes());
  for (uint64_t guest = begin; guest < end;) {
    const uint64_t table_end = std::min(end, (l1_index(guest) + 1) * bytes_per_l2_table);
    co_await map_clusters(*this, guest, table_end, as_zero, mode);
    guest = table_end;
  }
}

io::task<void> Image::resize(uint64_t length) {
  State& state = *state_;
  state.require_access(/*to_write=*/true, 0, 0);
  if (!is_aligned<uint64_t>(length, kSectorBytes))
    fail(ErrorKind::kInvalidArgument, "'{}': the size {} is not a multiple of 512 bytes", state.name, length);
  if (state.header.version < 3 && !state.snapshots.empty())
    fail(ErrorKind::kUnsupported,
         "'{}': a version 2 image does not note the size of its {} snapshot(s), so its own cannot change: "
         "delete them, or convert it to version 3 (compat=1.1)",
         state.name, state.snapshots.size());
  return at_home(state, resize_at_home(state, length));
}

io::task<void> Image::preallocate(Preallocation mode, uint64_t begin) {
  if (mode == Preallocation::kOff) co_return;
  state_->require_access(/*to_write=*/true, 0, 0);
  co_await at_home(*state_, preallocate_at_home(*state_, mode, begin));
  if (mode == Preallocation::kFull && state_->header.crypt_method == CryptMethod::kNone &&
      !state_->header.extended_l2()) {
    // Full: every byte is written once, so that no later write finds the disk full.
    const AlignedBuffer zeros = [] {
      AlignedBuffer buffer(kMiB);
      std::ranges::fill(buffer.bytes(), std::byte{0});
      return buffer;
    }();
    for (uint64_t at = begin; at < length_bytes(); at += kMiB)
      co_await write(at, zeros.bytes().first(std::min(kMiB, length_bytes() - at)));
  }
}

}  // namespace cofre::qcow2
