// The walk of the check: everything in the image that refers to host clusters.
//
// Tables that overlap or are named many times are read once, with their weight, so that time and memory are
// bounded by the size of the file whatever a hostile image claims.
#include "base/checked.h"
#include "format/qcow2/check_bitmaps.h"
#include "format/qcow2/check_context.h"
#include "format/qcow2/check_l2.h"
#include "format/qcow2/read_ahead.h"
#include "format/qcow2/snapshot_table.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kReadBytes = kMiB;
constexpr uint64_t kRefcountTableReserved = 0x1ff;
constexpr const char* kLost =
    "; this cannot be repaired: where it should point is lost, restore it from a copy";
constexpr const char* kCopyIt =
    "; this cannot be repaired, and writes would damage both: copy the disk to a new image with convert";

class Walk {
 public:
  explicit Walk(CheckContext& context)
      : context_(context), state_(context.state), header_(context.state.header) {}

  io::task<void> run() {
    reference(0, cluster_bytes(), "header");
    note_active_l1();
    co_await walk_snapshot_l1s();
    merge_tables();
    if (header_.snapshot_count > 0)
      reference(header_.snapshots_offset, co_await snapshot_table_bytes(), "snapshot table");
    if (header_.crypt_header)
      reference(header_.crypt_header->offset, header_.crypt_header->length_bytes, "encryption header");
    if (header_.bitmaps && (header_.autoclear_features & kBitmaps) != 0)
      counted_bitmaps_ = co_await reference_bitmaps(context_, references_);
    count_ranges();
    for (const TableUse& table : context_.l2_tables) context_.counts.add(first(table.offset), table.uses());
    reference_refcount_structure();
    note_overlaps();  // of metadata: those of data change nothing for what may be written
    co_await walk_l2_tables();
    co_await check_structure_alone();
  }

 private:
  uint64_t cluster_bytes() const { return state_.cluster_bytes(); }
  uint64_t first(uint64_t offset) const { return context_.cluster_of(offset); }

  // Metadata at [offset, offset + length).
  bool reference(uint64_t offset, uint64_t length, const char* what) {
    if (length == 0) return true;
    if (!context_.in_file(offset, length)) {
      context_.corruption(1, fmt::format("the {} at offset {} with {} bytes ends past the file's end{}", what,
                                         offset, length, kLost));
      return false;
    }
    references_.add(first(offset), first(offset + length - 1) + 1);
    return true;
  }

  void count_ranges() {
    for (const RangeSum::Range& range : references_.sum())
      context_.counts.add_run(range.begin, range.end - range.begin, range.weight);
  }

  // ---- L1 tables ----

  void note_active_l1() {
    if (state_.l1.size() == 0) return;
    reference(header_.l1_table_offset, state_.l1.size() * 8, "L1 table");
    for (uint64_t i = 0; i < state_.l1.size(); ++i)
      note_l1_entry(state_.l1[i], header_.l1_table_offset + i * 8, 1, 0);
  }

  void note_l1_entry(uint64_t entry, uint64_t at, uint64_t active, uint64_t snapshots) {
    const uint64_t offset = entry & kOffsetMask;
    if (offset == 0) return;
    const uint64_t uses = active + snapshots;
    if ((entry & kL1ReservedMask) != 0)
      context_.corruption(uses, fmt::format("the L1 entry at offset {} has reserved bits set: {:#018x}{}", at,
                                            entry, active > 0 ? context_.would("clears them") : kLost));
    if (!context_.in_file(offset, cluster_bytes())) {
      context_.incomplete = true;
      context_.corruption(
          uses, fmt::format("the L1 entry at offset {} names an L2 table at offset {}, past the file's end{}",
                            at, offset, kLost));
    } else if (!is_aligned(offset, cluster_bytes())) {
      context_.incomplete = true;
      context_.corruption(
          uses,
          fmt::format(
              "the L1 entry at offset {} names an L2 table at offset {}, which is not a cluster's start{}",
              at, offset, kLost));
    } else {
      add_table({offset, active, snapshots, false});
    }
  }

  void add_table(TableUse use) {
    auto& tables = context_.l2_tables;
    if (!tables.empty() && tables.back().offset == use.offset) {
      tables.back().active += use.active;
      tables.back().snapshots += use.snapshots;
      return;
    }
    tables.push_back(use);
    if (tables.size() < merge_at_) return;
    merge_tables();
    merge_at_ = std::max(merge_at_, tables.size() * 2);
  }

  void merge_tables() {
    auto& tables = context_.l2_tables;
    std::ranges::sort(tables, {}, &TableUse::offset);
    size_t kept = 0;
    for (size_t i = 0; i < tables.size(); ++i) {
      if (kept > 0 && tables[kept - 1].offset == tables[i].offset) {
        tables[kept - 1].active += tables[i].active;
        tables[kept - 1].snapshots += tables[i].snapshots;
      } else {
        tables[kept++] = tables[i];
      }
    }
    tables.resize(kept);
  }

  // ---- snapshots ----

  void note_snapshot_l1(const SnapshotEntry& snapshot, RangeSum& entries) {
    const uint64_t bytes = uint64_t{snapshot.l1_entries} * 8;
    const auto broken = [&](const char* why) {
      context_.incomplete = true;
      context_.corruption(
          1,
          fmt::format("snapshot {} ('{}') has an L1 table of {} entries at offset {}, which {}; this cannot "
                      "be repaired: delete the snapshot",
                      snapshot.id, snapshot.name, snapshot.l1_entries, snapshot.l1_table_offset, why));
    };
    if (!is_aligned(snapshot.l1_table_offset, cluster_bytes())) return broken("is not a cluster's start");
    if (bytes > kMaxL1Bytes) return broken("is too large");
    if (bytes == 0) return;
    if (!context_.in_file(snapshot.l1_table_offset, bytes)) return broken("ends past the file's end");
    references_.add(first(snapshot.l1_table_offset), first(snapshot.l1_table_offset + bytes - 1) + 1);
    entries.add(snapshot.l1_table_offset, snapshot.l1_table_offset + bytes);
  }

  io::task<void> walk_snapshot_l1s() {
    RangeSum entries;
    for (const SnapshotEntry& snapshot : state_.snapshots) note_snapshot_l1(snapshot, entries);
    AlignedBuffer piece(kReadBytes);
    for (const RangeSum::Range& range : entries.sum()) {
      for (uint64_t at = range.begin; at < range.end; at += kReadBytes) {
        const Bytes bytes = piece.bytes().first(std::min(kReadBytes, range.end - at));
        if (!co_await try_read(at, bytes, "snapshot's L1 table")) continue;
        for (size_t i = 0; i < bytes.size(); i += 8)
          note_l1_entry(load_be<uint64_t>(bytes.data() + i), at + i, 0, range.weight);
        context_.step(0, 1);
      }
    }
  }

  io::task<uint64_t> snapshot_table_bytes() {
    uint64_t bytes = 0;
    co_await read_snapshots(*state_.file, header_, &bytes);
    co_return bytes;
  }

  // ---- L2 tables ----

  io::task<bool> try_read(uint64_t offset, Bytes destination, const char* what) {
    std::string trouble;
    try {
      co_await context_.read(offset, destination);
      co_return true;
    } catch (const Error& error) {
      trouble = error.what();
    }
    unreadable(offset, what, trouble);
    co_return false;
  }

  void unreadable(uint64_t offset, const char* what, const std::string& trouble) {
    context_.incomplete = true;
    context_.unreadable(1, fmt::format("the {} at offset {} cannot be read: {}", what, offset, trouble));
  }

  io::task<void> walk_l2_tables() {
    L2Check check(context_);
    co_await read_ahead(
        {.file = *state_.file,
         .item_bytes = cluster_bytes(),
         .count = context_.l2_tables.size(),
         .lane = context_.options.reader},
        [this](size_t i) { return context_.l2_tables[i].offset; },
        [this, &check](size_t i, Bytes table, const std::string& trouble) {
          return walk_l2_table(check, i, table, trouble);
        });
  }

  io::task<void> walk_l2_table(L2Check& check, size_t i, Bytes table, const std::string& trouble) {
    const TableUse& use = context_.l2_tables[i];
    context_.step(i, context_.l2_tables.size());
    if (!trouble.empty()) {
      unreadable(use.offset, "L2 table", trouble);
    } else if (check.table(use, table)) {
      co_await state_.file->write(use.offset, table);
    }
  }

  // ---- refcount table and blocks ----

  void reference_refcount_structure() {
    const uint64_t bytes = uint64_t{header_.refcount_table_clusters} << header_.cluster_bits;
    if (context_.in_file(header_.refcount_table_offset, bytes)) {
      for (uint64_t i = 0; i < header_.refcount_table_clusters; ++i)
        reference_structure(first(header_.refcount_table_offset) + i);
    } else {
      context_.corruption(
          1, fmt::format("the refcount table at offset {} with {} bytes ends past the file's end{}",
                         header_.refcount_table_offset, bytes, context_.would("builds a new one")));
      context_.must_rebuild = true;
    }
    const DiskTable& table = state_.refcounts.table();
    for (uint64_t i = 0; i < table.size(); ++i)
      if (table[i] != 0) check_block(i, table[i]);
  }

  io::task<void> check_structure_alone() {
    const uint64_t table_bytes = uint64_t{header_.refcount_table_clusters} << header_.cluster_bits;
    if (const auto shared = shared_cluster(header_.refcount_table_offset, table_bytes)) {
      context_.must_rebuild = true;
      // Where the refcount does not agree, that is a finding by itself.
      const bool counted = co_await StoredRefcounts(context_).of(*shared) != context_.counts.of(*shared);
      context_.corruption(
          counted ? 0 : 1,
          fmt::format("the refcount table at offset {} lies in clusters that are used for "
                      "something else, too{}",
                      header_.refcount_table_offset, context_.would("builds a new refcount structure")));
    }
    const DiskTable& table = state_.refcounts.table();
    for (uint64_t i = 0; i < table.size(); ++i)
      if (table[i] != 0 && !context_.bad_blocks.contains(i)) check_alone(i, table[i]);
  }

  void note_overlaps() {
    for (TableUse& table : context_.l2_tables)
      table.alone = context_.counts.of(first(table.offset)) == table.uses();
    context_.l1_alone = alone(header_.l1_table_offset, state_.l1.size() * 8);
    if (counted_bitmaps_ && !alone(header_.bitmaps->directory_offset, header_.bitmaps->directory_bytes)) {
      context_.drop_bitmaps = true;
      context_.corruption(
          1, fmt::format("the bitmap directory at offset {} lies in other metadata{}",
                         header_.bitmaps->directory_offset, context_.would("drops all bitmaps")));
    } else if (!context_.l1_alone) {
      context_.corruption(1, fmt::format("the L1 table at offset {} lies in other metadata{}",
                                         header_.l1_table_offset, kCopyIt));
    }
  }

  // The first cluster of metadata at [offset, offset + length) that it does not have for itself. Clusters
  // past the file's end are another finding.
  std::optional<uint64_t> shared_cluster(uint64_t offset, uint64_t length) const {
    if (length == 0 || !context_.in_file(offset, length)) return std::nullopt;
    for (uint64_t cluster = first(offset); cluster <= first(offset + length - 1); ++cluster)
      if (context_.counts.of(cluster) != 1) return cluster;
    return std::nullopt;
  }
  bool alone(uint64_t offset, uint64_t length) const { return !shared_cluster(offset, length); }

  void reference_structure(uint64_t cluster) {
    context_.counts.add(cluster, 1);
    context_.structure_clusters.push_back(cluster);
  }

  void bad_block(uint64_t index, const std::string& finding) {
    context_.bad_blocks.insert(index);
    context_.must_rebuild = true;
    context_.corruption(1, finding + context_.would("builds a new refcount structure"));
  }

  void check_block(uint64_t index, uint64_t entry) {
    const uint64_t offset = entry & ~kRefcountTableReserved;
    if ((entry & kRefcountTableReserved) != 0)
      return bad_block(index,
                       fmt::format("refcount table entry {} has reserved bits set: {:#018x}", index, entry));
    if (!is_aligned(offset, cluster_bytes()))
      return bad_block(
          index, fmt::format("refcount block {} at offset {} is not at a cluster's start", index, offset));
    if (first(offset) >= context_.file_clusters())
      return bad_block(index,
                       fmt::format("refcount block {} at offset {} is outside the file", index, offset));
    reference_structure(first(offset));
  }

  // A block that something else uses too cannot be trusted.
  void check_alone(uint64_t index, uint64_t offset) {
    const uint64_t references = context_.counts.of(first(offset));
    if (references == 1) return;
    context_.must_rebuild = true;
    context_.corruption(
        1, fmt::format("refcount block {} at offset {} is referenced {} times{}", index, offset, references,
                       context_.would("builds a new refcount structure")));
  }

  CheckContext& context_;
  State& state_;
  const Header& header_;
  RangeSum references_;  // clusters of metadata
  bool counted_bitmaps_ = false;
  size_t merge_at_ = 1 << 20;
};

}  // namespace

io::task<void> count_references(CheckContext& context) {
  co_await Walk(context).run();
}

}  // namespace cofre::qcow2
