// Internal snapshots: create, apply, delete, show. Each prepares everything on disk under new names, switches
// by one write of the header, and then gives up what the header named before.
#include <algorithm>
#include <array>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/snapshot_tree.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kDiskFieldsAt = 24;      // size, encryption method, L1 entries, L1 table
constexpr uint64_t kSnapshotFieldsAt = 60;  // number of snapshots, table

std::vector<std::byte> table_bytes(const std::vector<uint64_t>& entries) {
  std::vector<std::byte> bytes(entries.size() * 8);
  for (size_t i = 0; i < entries.size(); ++i) store_be(bytes.data() + i * 8, entries[i]);
  return bytes;
}

// An L1 table as its snapshot has it. Throws Error kCorrupt.
io::task<std::vector<uint64_t>> read_l1(State& state, const SnapshotEntry& snapshot) {
  const uint64_t bytes = uint64_t{snapshot.l1_entries} * 8;
  if (bytes > kMaxL1Bytes || !is_aligned(snapshot.l1_table_offset, state.cluster_bytes()) ||
      !range_within(snapshot.l1_table_offset, bytes, state.file->length_bytes()))
    state.fail_corrupt(
        fmt::format("snapshot {} ('{}') has an L1 table of {} entries at offset {}, which cannot be",
                    snapshot.id, snapshot.name, snapshot.l1_entries, snapshot.l1_table_offset));
  DiskTable table;
  co_await table.read(*state.file, snapshot.l1_table_offset, snapshot.l1_entries);
  co_return table.values();
}

// A change of snapshots. `metadata` is held; what is on disk and not named yet is given back on failure.
class SnapshotChange {
 public:
  explicit SnapshotChange(State& state) : state_(state) {}

  io::task<void> create(SnapshotEntry snapshot);
  io::task<void> apply(size_t number);
  io::task<void> remove(size_t number);

 private:
  uint64_t clusters_of(uint64_t bytes) const { return div_ceil(bytes, state_.cluster_bytes()); }

  // Puts bytes into new clusters, and gives their offset (0 for none).
  io::task<uint64_t> place(std::vector<std::byte> bytes) {
    const uint64_t clusters = clusters_of(bytes.size());
    if (clusters == 0) co_return 0;
    placed_.push_back(co_await state_.refcounts.allocate_exactly(clusters));
    const uint64_t offset = placed_.back().host_offset;
    bytes.resize(clusters << state_.header.cluster_bits);
    co_await state_.file->write(offset, bytes);
    co_return offset;
  }

  io::task<void> give_up(uint64_t offset, uint64_t bytes) {
    if (bytes == 0) co_return;
    const uint64_t clusters = clusters_of(bytes);
    co_await state_.refcounts.adjust(offset, clusters, -1);
    state_.metadata_map.remove(offset, bytes);
    if (state_.options.discard_snapshot)
      co_await state_.discard_host(offset, clusters << state_.header.cluster_bits);
  }

  io::task<void> give_back_placed() {
    for (const ClusterRun& run : placed_) co_await state_.refcounts.adjust(run.host_offset, run.clusters, -1);
  }

  // `work` gets everything on disk up to the switch. If it fails the tree and the clusters taken are as
  // before.
  io::task<void> guarded(io::task<void> work, SnapshotTree& tree) {
    std::exception_ptr failure;
    try {
      co_await std::move(work);
    } catch (...) {
      failure = std::current_exception();
    }
    if (!failure) co_return;
    if (!state_.unusable && !state_.refcounts.broken()) {
      co_await give_back_placed();
      co_await tree.undo();
    }
    std::rethrow_exception(failure);
  }

  // One write, durable: from here on the image is the new one.
  io::task<void> switch_header(uint64_t at, ConstBytes fields) {
    state_.unusable = true;  // unless it is known which of both the disk has
    co_await state_.write_header_fields(at, fields);
    co_await state_.file->flush();
    state_.unusable = false;
  }

  io::task<void> prepare_create(SnapshotTree& tree, SnapshotEntry& snapshot);
  io::task<void> prepare_apply(SnapshotTree& tree, std::vector<uint64_t>& l1);
  io::task<void> prepare_remove();
  io::task<void> switch_table();
  io::task<void> switch_disk(const SnapshotEntry& snapshot, std::vector<uint64_t> l1);

  State& state_;
  std::vector<ClusterRun> placed_;
  std::vector<SnapshotEntry> snapshots_;  // as they are to be
  uint64_t table_offset_ = 0;             // their table, in its new place
  uint64_t table_bytes_ = 0;
  uint64_t l1_offset_ = 0;  // the active L1 table's new place
};

// The old table is given up.
io::task<void> SnapshotChange::switch_table() {
  std::array<std::byte, 12> fields;
  store_be(fields.data(), static_cast<uint32_t>(snapshots_.size()));
  store_be(fields.data() + 4, table_offset_);
  co_await switch_header(kSnapshotFieldsAt, fields);
  const uint64_t old_offset = std::exchange(state_.header.snapshots_offset, table_offset_);
  const uint64_t old_bytes = std::exchange(state_.snapshot_table_bytes, table_bytes_);
  state_.header.snapshot_count = static_cast<uint32_t>(snapshots_.size());
  state_.snapshots = std::move(snapshots_);
  state_.metadata_map.add(table_offset_, table_bytes_);
  co_await give_up(old_offset, old_bytes);
}

// ---- create ----

io::task<void> SnapshotChange::prepare_create(SnapshotTree& tree, SnapshotEntry& snapshot) {
  co_await tree.share();
  snapshot.l1_table_offset = co_await place(table_bytes(tree.l1()));
  for (size_t i = 0; i < tree.l1().size(); ++i)
    if (tree.l1()[i] != state_.l1[i]) state_.l1.set(i, tree.l1()[i]);
  co_await state_.wait_for_transfers();  // into clusters that were the disk's alone
  snapshots_ = state_.snapshots;
  snapshots_.push_back(snapshot);
  std::vector<std::byte> table = encode_snapshots(snapshots_, state_.name);
  table_bytes_ = table.size();
  table_offset_ = co_await place(std::move(table));
  co_await state_.write_back(/*durable=*/true);
}

io::task<void> SnapshotChange::create(SnapshotEntry snapshot) {
  co_await state_.prepare_to_rearrange();
  if (state_.snapshots.size() >= kMaxSnapshots)
    fail(ErrorKind::kLimit, "'{}': an image can have {} snapshots, not more: delete some", state_.name,
         kMaxSnapshots);
  snapshot.id = new_snapshot_id(state_.snapshots);
  snapshot.l1_entries = static_cast<uint32_t>(state_.l1.size());
  snapshot.disk_bytes = state_.header.size_bytes;
  SnapshotTree tree(state_, state_.l1.values());
  co_await guarded(prepare_create(tree, snapshot), tree);
  state_.metadata_map.add(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8);
  co_await switch_table();
  co_await state_.write_back(/*durable=*/true);
}

// ---- apply ----

io::task<void> SnapshotChange::prepare_apply(SnapshotTree& tree, std::vector<uint64_t>& l1) {
  co_await tree.share();
  std::ranges::copy(tree.l1(), l1.begin());
  l1_offset_ = co_await place(table_bytes(l1));
  co_await state_.write_back(/*durable=*/true);
}

io::task<void> SnapshotChange::switch_disk(const SnapshotEntry& snapshot, std::vector<uint64_t> l1) {
  std::array<std::byte, 24> fields;
  store_be(fields.data(), snapshot.disk_bytes);
  store_be(fields.data() + 8, static_cast<uint32_t>(state_.header.crypt_method));
  store_be(fields.data() + 12, static_cast<uint32_t>(l1.size()));
  store_be(fields.data() + 16, l1_offset_);
  co_await switch_header(kDiskFieldsAt, fields);
  for (const uint64_t entry : l1)
    if ((entry & kOffsetMask) != 0) state_.metadata_map.add(entry & kOffsetMask);
  state_.metadata_map.add(l1_offset_, l1.size() * 8);
  state_.header.size_bytes = snapshot.disk_bytes;
  state_.length_bytes = align_down<uint64_t>(snapshot.disk_bytes, kSectorBytes);
  state_.header.l1_entries = static_cast<uint32_t>(l1.size());
  state_.header.l1_table_offset = l1_offset_;
  state_.l1.assign(l1_offset_, std::move(l1));
}

io::task<void> SnapshotChange::apply(size_t number) {
  co_await state_.prepare_to_rearrange();
  const SnapshotEntry snapshot = state_.snapshots.at(number);
  if (snapshot.disk_bytes != state_.header.size_bytes && state_.header.version < 3)
    fail(ErrorKind::kUnsupported,
         "'{}': snapshot {} is of a disk of {} bytes, and a version 2 image with snapshots cannot change its "
         "size",
         state_.name, snapshot.id, snapshot.disk_bytes);
  SnapshotTree tree(state_, co_await read_l1(state_, snapshot));
  std::vector<uint64_t> l1(
      std::max<uint64_t>({tree.l1().size(), state_.l1.size(), state_.l1_entries_for(snapshot.disk_bytes)}));
  co_await guarded(prepare_apply(tree, l1), tree);
  const uint64_t old_offset = state_.l1.offset();
  SnapshotTree old(state_, state_.l1.values());
  co_await switch_disk(snapshot, std::move(l1));
  co_await state_.wait_for_transfers();  // from and into clusters that may be free now
  co_await old.release();
  co_await give_up(old_offset, old.l1().size() * 8);
  co_await state_.write_back(/*durable=*/true);
}

// ---- delete ----

io::task<void> SnapshotChange::prepare_remove() {
  std::vector<std::byte> table = encode_snapshots(snapshots_, state_.name);
  table_bytes_ = table.size();
  table_offset_ = co_await place(std::move(table));
  co_await state_.write_back(/*durable=*/true);
}

io::task<void> SnapshotChange::remove(size_t number) {
  co_await state_.prepare_to_rearrange();
  const SnapshotEntry snapshot = state_.snapshots.at(number);
  SnapshotTree tree(state_, co_await read_l1(state_, snapshot));
  snapshots_ = state_.snapshots;
  snapshots_.erase(snapshots_.begin() + static_cast<ptrdiff_t>(number));
  co_await guarded(prepare_remove(), tree);
  co_await switch_table();
  co_await tree.release();
  co_await give_up(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8);
  co_await state_.write_back(/*durable=*/true);
}

// ---- at home ----

// Runs one step of a SnapshotChange; what it finds damaged is noted in the image.
io::task<void> change_snapshots(State& state, io::task<void> step) {
  block::RangeLock::Guard everything;
  co_await state.guest_ranges.acquire(everything, 0, UINT64_MAX, true);
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  std::exception_ptr failure;
  bool damaged = false;
  try {
    co_await std::move(step);
  } catch (const Error& error) {
    failure = std::current_exception();
    damaged = error.kind() == ErrorKind::kCorrupt;
  }
  if (!failure) co_return;
  if (damaged) co_await state.set_corrupt_bit();
  std::rethrow_exception(failure);
}

void require_snapshots(const State& state, const char* verb) {
  state.require_writable();
  if (state.header.external_data())
    fail(ErrorKind::kUnsupported,
         "'{}' keeps its data in an external file: it can have no internal snapshots, so none to {}",
         state.name, verb);
}

io::task<void> create_at_home(State& state, SnapshotEntry snapshot) {
  const uint64_t vm_state_bytes = snapshot.vm_state_bytes;
  SnapshotChange change(state);
  co_await change_snapshots(state, change.create(std::move(snapshot)));
  if (vm_state_bytes == 0) co_return;
  co_await state.prepare_to_change();
  const uint64_t start = state.vm_state_start();
  const uint64_t mapped = state.l1.size() * state.bytes_per_l2_table;
  const uint64_t end =
      std::min(mapped, start + std::min(mapped, align_up(vm_state_bytes, state.cluster_bytes())));
  if (end > start) co_await state.discard_range(start, end - start);
}

io::task<void> apply_at_home(State& state, size_t number) {
  if (state.bitmaps.any())
    fail(ErrorKind::kUnsupported,
         "Device has active dirty bitmaps: '{}' would get other content that they do not note. Remove them "
         "first (bitmap --remove)",
         state.name);
  co_await state.prepare_to_change();
  SnapshotChange change(state);
  co_await change_snapshots(state, change.apply(number));
}

io::task<void> delete_at_home(State& state, size_t number) {
  SnapshotChange change(state);
  co_await change_snapshots(state, change.remove(number));
}

io::task<void> show_at_home(State& state, size_t number) {
  const SnapshotEntry& snapshot = state.snapshots.at(number);
  std::vector<uint64_t> l1 = co_await read_l1(state, snapshot);
  l1.resize(std::max<uint64_t>(l1.size(), state.l1_entries_for(snapshot.disk_bytes)));
  state.l1.assign(snapshot.l1_table_offset, std::move(l1));
  state.header.size_bytes = snapshot.disk_bytes;
  state.length_bytes = align_down<uint64_t>(snapshot.disk_bytes, kSectorBytes);
}

}  // namespace

io::task<void> Image::create_snapshot(SnapshotEntry snapshot) {
  require_snapshots(*state_, "create");
  return at_home(*state_, create_at_home(*state_, std::move(snapshot)));
}

io::task<void> Image::apply_snapshot(size_t number) {
  require_snapshots(*state_, "apply");
  return at_home(*state_, apply_at_home(*state_, number));
}

io::task<void> Image::delete_snapshot(size_t number) {
  require_snapshots(*state_, "delete");
  return at_home(*state_, delete_at_home(*state_, number));
}

io::task<void> Image::show_snapshot(size_t number) {
  if (!state_->options.read_only)
    fail(ErrorKind::kInvalidArgument, "'{}': a snapshot is shown of an image opened read-only", state_->name);
  return at_home(*state_, show_at_home(*state_, number));
}

// Tables that only snapshots use must not be written to either. What cannot be told here (a damaged table, or
// more of them than this memory is worth) is left to the check.
io::task<void> State::note_snapshot_tables() {
  constexpr uint64_t kMostBytes = 64 * kMiB;
  if (snapshot_tables_noted) co_return;
  uint64_t bytes = 0;
  for (const SnapshotEntry& snapshot : snapshots) {
    const uint64_t length = uint64_t{snapshot.l1_entries} * 8;
    bytes += length;
    if (bytes > kMostBytes) break;
    if (!range_within(snapshot.l1_table_offset, length, file->length_bytes())) continue;
    DiskTable table;
    co_await table.read(*file, snapshot.l1_table_offset, snapshot.l1_entries);
    for (const uint64_t entry : table.values()) {
      const uint64_t offset = entry & kOffsetMask;
      if (offset != 0 && is_aligned(offset, cluster_bytes()) && offset < file->length_bytes())
        metadata_map.add(offset);
    }
  }
  snapshot_tables_noted = true;
}

}  // namespace cofre::qcow2
