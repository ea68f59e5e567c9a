// Version 2 has no reads-as-zero flag: none may be left when it comes, none may appear when it goes. The
// disk's own entries are changed as any write changes them. Tables that only snapshots name are changed in
// place: what they name anew is durable first, and what they no longer name is given up last, so a crash
// leaks clusters.
#include <algorithm>
#include <set>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "format/qcow2/amend_context.h"
#include "format/qcow2/read_padded.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kZeroPieceBytes = 256 * kKiB;

bool is_zero_entry(L2Entry entry) {
  return !entry.compressed() && (entry.word & kZeroFlag) != 0;
}

void require_l1_in_file(const State& state, const SnapshotEntry& snapshot) {
  if (!range_within(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8, state.file->length_bytes()))
    state.fail_corrupt(fmt::format("the L1 table of snapshot '{}' lies past the file's end", snapshot.name));
}

void require_l2_in_file(const State& state, uint64_t offset) {
  if (!is_aligned(offset, state.cluster_bytes()) || offset >= state.file->length_bytes())
    state.fail_corrupt(
        fmt::format("an L1 table names an L2 table at offset {}, which is no cluster of the file", offset));
}

class ExpandZeroes {
 public:
  explicit ExpandZeroes(AmendContext context)
      : context_(context),
        state_(context.state),
        over_backing_(state_.header.backing_file.has_value()),
        zeros_(std::min(state_.cluster_bytes(), kZeroPieceBytes)) {
    std::ranges::fill(zeros_.bytes(), std::byte{0});
    total_ = state_.l1.size();
    for (const SnapshotEntry& snapshot : state_.snapshots) total_ += snapshot.l1_entries;
  }

  io::task<void> run() {
    for (uint64_t index = 0; index < state_.l1.size(); ++index) {
      context_.step(done_++, total_);
      co_await expand_in_disk(index);
    }
    if (state_.snapshots.empty()) co_return;
    {
      const io::Mutex::Guard guard = co_await state_.metadata.lock();
      co_await state_.settle();
    }
    note_forbidden();
    for (const SnapshotEntry& snapshot : state_.snapshots) co_await expand_in_snapshot(snapshot);
  }

 private:
  void require_readable(L2Entry entry) const {
    if (entry.compressed() && state_.header.compression_type != CompressionType::kDeflate)
      fail(ErrorKind::kUnsupported,
           "'{}': it has clusters compressed with zstd, which version 2 has not; convert the image instead",
           state_.name);
  }

  // ---- the disk ----

  // Past the disk's end no backing file shows through.
  bool must_write(uint64_t guest) const { return over_backing_ && guest < state_.length_bytes; }

  io::task<void> expand_in_disk(uint64_t l1_index) {
    if ((state_.l1[l1_index] & kOffsetMask) == 0) co_return;
    const uint64_t end = (l1_index + 1) * state_.bytes_per_l2_table;
    for (uint64_t guest = l1_index * state_.bytes_per_l2_table; guest < end;
         guest += state_.cluster_bytes()) {
      const L2Entry entry = co_await state_.entry_at(guest);
      require_readable(entry);
      if (!is_zero_entry(entry)) continue;
      if (must_write(guest))
        co_await write_zero_cluster(guest);
      else
        co_await unmap_cluster(guest);
    }
  }

  io::task<void> write_zero_cluster(uint64_t guest) {
    const uint64_t end = std::min(guest + state_.cluster_bytes(), state_.length_bytes);
    for (uint64_t at = guest; at < end; at += zeros_.size())
      co_await state_.write_range(state_.home, at,
                                  zeros_.bytes().first(std::min<uint64_t>(zeros_.size(), end - at)));
  }

  io::task<void> unmap_cluster(uint64_t guest) {
    const io::Mutex::Guard guard = co_await state_.metadata.lock();
    state_.require_usable();
    const SlicePtr slice = co_await state_.writable_slice(guest);
    const L2Entry old = state_.entry_in(*slice, guest);
    state_.set_entry(*slice, guest, {});
    state_.retire_entry(old, /*discard=*/true);
    if (state_.needs_relief()) co_await state_.relieve();
  }

  // ---- snapshots ----

  // Where no snapshot's L2 table can be, whatever a damaged image says.
  void note_forbidden() {
    const Header& header = state_.header;
    forbidden_.add(0);
    forbidden_.add(header.l1_table_offset, uint64_t{header.l1_entries} * 8);
    for (const uint64_t entry : state_.l1.values())
      if ((entry & kOffsetMask) != 0) forbidden_.add(entry & kOffsetMask);
    if (header.crypt_header) forbidden_.add(header.crypt_header->offset, header.crypt_header->length_bytes);
    forbidden_.add(header.snapshots_offset);
    for (const SnapshotEntry& snapshot : state_.snapshots)
      forbidden_.add(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8);
    forbidden_.add(header.refcount_table_offset,
                   uint64_t{header.refcount_table_clusters} << header.cluster_bits);
    for (const uint64_t block : state_.refcounts.table().values())
      if (block != 0) forbidden_.add(block);
  }

  io::task<void> expand_in_snapshot(const SnapshotEntry& snapshot) {
    require_l1_in_file(state_, snapshot);
    DiskTable l1;
    co_await l1.read(*state_.file, snapshot.l1_table_offset, snapshot.l1_entries);
    for (uint64_t index = 0; index < l1.size(); ++index) {
      context_.step(done_++, total_);
      const uint64_t offset = l1[index] & kOffsetMask;
      if (offset == 0 || !seen_.insert(offset).second) continue;
      require_l2_in_file(state_, offset);
      co_await expand_table(offset, index * state_.bytes_per_l2_table);
    }
  }

  io::task<void> expand_table(uint64_t offset, uint64_t guest) {
    AlignedBuffer table(state_.cluster_bytes());
    co_await read_padded(*state_.file, offset, table.bytes());
    const io::Mutex::Guard guard = co_await state_.metadata.lock();
    state_.require_usable();
    const uint64_t uses = co_await state_.refcounts.get(offset >> state_.header.cluster_bits);
    std::vector<uint64_t> given_up;
    bool changed = false;
    for (uint64_t i = 0; i < state_.header.l2_entries_per_table(); ++i) {
      const L2Entry old = load_entry(table.data(), i, /*extended=*/false);
      require_readable(old);
      if (!is_zero_entry(old)) continue;
      changed = true;
      if (old.host_offset() != 0) given_up.push_back(old.host_offset());
      L2Entry filled;
      if (over_backing_) filled.word = co_await zero_host_cluster(guest + i * state_.cluster_bytes(), uses);
      store_entry(table.data(), i, /*extended=*/false, filled);
    }
    if (changed) co_await replace_table(offset, table, uses, given_up);
  }

  // A new cluster that reads as zero at `guest`, with as many references as its table has.
  io::task<uint64_t> zero_host_cluster(uint64_t guest, uint64_t uses) {
    const ClusterRun place = co_await state_.refcounts.allocate_exactly(1);
    if (uses > 1) co_await state_.refcounts.adjust(place.host_offset, 1, static_cast<int64_t>(uses) - 1);
    for (uint64_t at = 0; at < state_.cluster_bytes(); at += zeros_.size())
      co_await state_.write_stored(guest + at, HostOffset{place.host_offset + at}, zeros_.bytes());
    co_return place.host_offset;
  }

  io::task<void> replace_table(uint64_t offset, const AlignedBuffer& table, uint64_t uses,
                               const std::vector<uint64_t>& given_up) {
    if (uses == 0 || forbidden_.overlaps(offset, state_.cluster_bytes()))
      state_.fail_corrupt(fmt::format("a snapshot's L2 table at offset {} lies on other metadata", offset));
    co_await state_.write_back(/*durable=*/true);
    co_await state_.file->write(offset, table.bytes());
    state_.l2_cache.drop(offset, state_.cluster_bytes());
    co_await state_.file_barrier();
    for (const uint64_t host : given_up)
      co_await state_.refcounts.adjust(host, 1, -static_cast<int64_t>(uses));
  }

  AmendContext context_;
  State& state_;
  bool over_backing_;
  AlignedBuffer zeros_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  std::set<uint64_t> seen_;  // L2 tables of snapshots
  MetadataMap forbidden_{state_.header.cluster_bits};
};

// Where the L2 tables of the disk and of all snapshots lie.
io::task<std::set<uint64_t>> all_l2_tables(State& state) {
  std::set<uint64_t> tables;
  for (const uint64_t entry : state.l1.values()) tables.insert(entry & kOffsetMask);
  for (const SnapshotEntry& snapshot : state.snapshots) {
    require_l1_in_file(state, snapshot);
    DiskTable l1;
    co_await l1.read(*state.file, snapshot.l1_table_offset, snapshot.l1_entries);
    for (const uint64_t entry : l1.values()) tables.insert(entry & kOffsetMask);
  }
  tables.erase(0);
  co_return tables;
}

}  // namespace

io::task<void> require_no_zero_flags(AmendContext context) {
  State& state = context.state;
  AlignedBuffer table(state.cluster_bytes());
  const std::set<uint64_t> tables = co_await all_l2_tables(state);
  for (const uint64_t offset : tables) {
    context.step(0, 1);
    require_l2_in_file(state, offset);
    co_await read_padded(*state.file, offset, table.bytes());
    for (uint64_t i = 0; i < state.header.l2_entries_per_table(); ++i)
      if (is_zero_entry(load_entry(table.data(), i, /*extended=*/false)))
        state.fail_corrupt(
            fmt::format("entry {} of the L2 table at offset {} has a bit set that version 2 reserves, and "
                        "that means zeros in "
                        "version 3",
                        i, offset));
  }
}

io::task<void> expand_zero_clusters(AmendContext context) {
  co_await context.state.prepare_to_change();
  ExpandZeroes expand(context);
  co_await expand.run();
}

}  // namespace cofre::qcow2
