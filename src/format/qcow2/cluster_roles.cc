#include "format/qcow2/cluster_roles.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/check_counts.h"
#include "format/qcow2/header_end.h"
#include "format/qcow2/read_ahead.h"
#include "format/qcow2/read_padded.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

void ClusterRoles::add(uint64_t first, uint64_t count, uint8_t roles) {
  for (const uint64_t end = first + count; first < end;) {
    std::unique_ptr<Piece>& piece = pieces_[first / kPerPiece];
    if (!piece) {
      bytes_ += sizeof(Piece);
      if (bytes_ > most_bytes_)
        fail(ErrorKind::kLimit,
             "'{}': to tell what its clusters are for would need more than {} MiB of memory, more than the "
             "size of the file explains; its tables are damaged",
             name_, most_bytes_ >> 20);
      piece = std::make_unique<Piece>();
    }
    const uint64_t stop = std::min(end, (first / kPerPiece + 1) * kPerPiece);
    for (; first < stop; ++first) (*piece)[first % kPerPiece] |= roles;
  }
  end_ = std::max(end_, first);
}

uint8_t ClusterRoles::of(uint64_t cluster) const noexcept {
  const auto found = pieces_.find(cluster / kPerPiece);
  return found == pieces_.end() ? 0 : (*found->second)[cluster % kPerPiece];
}

namespace {

constexpr uint64_t kReadBytes = kMiB;
constexpr uint64_t kSpareMemoryBytes = 128 * kMiB;  // as the check's

uint64_t most_memory(const block::Device& file) {
  return kSpareMemoryBytes +
         std::min(file.allocated_bytes().value_or(file.length_bytes()), uint64_t{1} << 62);
}

struct Table {
  uint64_t offset;
  uint8_t roles;   // of what it maps
  uint64_t guest;  // that its first entry maps, for tables of the active state
};

class LayoutWalk {
 public:
  LayoutWalk(State& state, const LayoutOptions& options)
      : state_(state),
        header_(state.header),
        options_(options),
        layout_{.file = ClusterRoles(state.name, most_memory(*state.file)),
                .data = ClusterRoles(state.name, most_memory(state.data()))} {}

  io::task<ImageLayout> run() {
    co_await note_header();
    note_structure();
    note_active_l1();
    co_await note_snapshots();
    co_await note_bitmaps();
    co_await walk_tables();
    co_return std::move(layout_);
  }

 private:
  uint64_t cluster_bytes() const { return state_.cluster_bytes(); }
  uint64_t cluster_of(uint64_t offset) const { return offset >> header_.cluster_bits; }

  bool in_file(uint64_t offset, uint64_t length) const {
    const uint64_t clusters = div_ceil(state_.file->length_bytes(), cluster_bytes());
    return range_within(offset, length, clusters << header_.cluster_bits);
  }

  void check_cancelled() const {
    if (options_.cancelled && options_.cancelled())
      fail(ErrorKind::kCancelled, "the examination of '{}' was cancelled", state_.name);
  }

  // Metadata at [offset, offset + length), and the unused rest of its last cluster. False, and a broken
  // reference: it does not lie in the file.
  bool metadata(uint64_t offset, uint64_t length, const std::string& what, uint8_t roles = kRoleMetadata) {
    if (length == 0) return true;
    if (!in_file(offset, length)) {
      ++layout_.broken_references;
      return false;
    }
    const uint64_t end = offset + length;
    layout_.file.add(cluster_of(offset), cluster_of(end - 1) - cluster_of(offset) + 1, roles);
    const uint64_t cluster_end = align_up(end, cluster_bytes());
    if (end < cluster_end) layout_.slack.push_back({end, cluster_end, what});
    return true;
  }

  io::task<void> note_header() {
    layout_.file.add(0, 1, kRoleMetadata);
    AlignedBuffer cluster(cluster_bytes());
    co_await read_padded(*state_.file, 0, cluster.bytes());
    for (const ByteRange& gap : unused_header_bytes(cluster.bytes()))
      layout_.slack.push_back({gap.begin, gap.end, "header", /*must_be_zero=*/true});
    if (header_.crypt_header)
      metadata(header_.crypt_header->offset, header_.crypt_header->length_bytes, "encryption header",
               kRoleMetadata | kRoleKeys);
  }

  void note_structure() {
    metadata(header_.refcount_table_offset, uint64_t{header_.refcount_table_clusters} << header_.cluster_bits,
             "refcount table");
    const DiskTable& table = state_.refcounts.table();
    for (uint64_t i = 0; i < table.size(); ++i)
      if (const uint64_t block = table[i] & ~uint64_t{kSectorBytes - 1}; block != 0)
        metadata(align_down(block, cluster_bytes()), cluster_bytes(), "refcount block");
  }

  void add_table(uint64_t l1_entry, uint8_t roles, uint64_t guest) {
    const uint64_t offset = l1_entry & kOffsetMask;
    if (offset == 0) return;
    if (!is_aligned(offset, cluster_bytes())) {
      ++layout_.broken_references;
      return;
    }
    if (!metadata(offset, cluster_bytes(), "L2 table")) return;
    tables_.push_back({offset, roles, guest});
    if (tables_.size() >= merge_at_) merge_tables();
  }

  void note_active_l1() {
    metadata(header_.l1_table_offset, state_.l1.size() * 8, "L1 table");
    for (uint64_t i = 0; i < state_.l1.size(); ++i)
      add_table(state_.l1[i], kRoleActive, i * state_.bytes_per_l2_table);
  }

  io::task<void> note_snapshots() {
    if (header_.snapshot_count > 0)
      metadata(header_.snapshots_offset, state_.snapshot_table_bytes, "snapshot table");
    RangeSum entries;  // tables laid over each other are read once
    for (const SnapshotEntry& snapshot : state_.snapshots) {
      const uint64_t bytes = uint64_t{snapshot.l1_entries} * 8;
      if (bytes > kMaxL1Bytes) {
        ++layout_.broken_references;
        continue;
      }
      if (!metadata(snapshot.l1_table_offset, bytes, "snapshot's L1 table")) continue;
      entries.add(snapshot.l1_table_offset, snapshot.l1_table_offset + bytes);
    }
    co_await for_each_word(entries, [this](uint64_t word) { add_table(word, kRoleSnapshot, 0); });
  }

  template <typename Visit>
  io::task<void> for_each_word(const RangeSum& ranges, Visit visit) {
    AlignedBuffer piece(kReadBytes);
    for (const RangeSum::Range& range : ranges.sum()) {
      for (uint64_t at = range.begin; at < range.end; at += kReadBytes) {
        check_cancelled();
        const Bytes bytes = piece.bytes().first(std::min(kReadBytes, range.end - at));
        co_await read_padded(*state_.file, at, bytes);
        for (size_t i = 0; i + 8 <= bytes.size(); i += 8) visit(load_be<uint64_t>(bytes.data() + i));
      }
    }
  }

  io::task<void> note_bitmaps() {
    if (!header_.bitmaps || (header_.autoclear_features & kBitmaps) == 0) co_return;
    metadata(header_.bitmaps->directory_offset, header_.bitmaps->directory_bytes, "bitmap directory");
    if (!state_.bitmaps.fault().empty()) ++layout_.broken_references;
    RangeSum entries;
    for (const auto& bitmap : state_.bitmaps.list()) {
      const uint64_t bytes = uint64_t{bitmap->entry.table_entries} * 8;
      if (metadata(bitmap->entry.table_offset, bytes, "bitmap table"))
        entries.add(bitmap->entry.table_offset, bitmap->entry.table_offset + bytes);
    }
    co_await for_each_word(entries, [this](uint64_t word) {
      if (const uint64_t offset = word & kOffsetMask; offset != 0)
        metadata(align_down(offset, cluster_bytes()), cluster_bytes(), "bitmap");
    });
  }

  void merge_tables() {
    std::ranges::sort(tables_, {}, &Table::offset);
    size_t kept = 0;
    for (const Table& table : tables_) {
      if (kept > 0 && tables_[kept - 1].offset == table.offset) {
        if ((table.roles & kRoleActive) != 0) tables_[kept - 1].guest = table.guest;
        tables_[kept - 1].roles |= table.roles;
      } else {
        tables_[kept++] = table;
      }
    }
    tables_.resize(kept);
    merge_at_ = std::max<size_t>(merge_at_, tables_.size() * 2);
  }

  io::task<void> walk_tables() {
    merge_tables();
    co_await read_ahead(
        {.file = *state_.file,
         .item_bytes = cluster_bytes(),
         .count = tables_.size(),
         .lane = options_.reader},
        [this](size_t i) { return tables_[i].offset; },
        [this](size_t i, Bytes bytes, const std::string& trouble) { return walk_table(i, bytes, trouble); });
  }

  io::task<void> walk_table(size_t index, Bytes bytes, const std::string& trouble) {
    check_cancelled();
    if (!trouble.empty()) fail(ErrorKind::kIo, "{}", trouble);
    const Table& table = tables_[index];
    for (uint64_t i = 0; i < header_.l2_entries_per_table(); ++i) {
      const L2Entry entry = load_entry(bytes.data(), i, header_.extended_l2());
      if (entry == L2Entry{}) continue;
      if (header_.external_data()) {
        in_data_file(entry, table, i);
      } else if (entry.compressed()) {
        compressed(entry, table.roles);
      } else if (has_host_cluster(entry, header_)) {
        allocated(entry, table.roles);
      }
    }
    co_return;
  }

  uint8_t roles_of(L2Entry entry, uint8_t users) const {
    const auto with = [users](unsigned more) { return static_cast<uint8_t>(users | more); };
    if (!header_.extended_l2()) {
      const bool zero = (entry.word & kZeroFlag) != 0 && header_.version >= 3;
      return with(zero ? kRoleReserved : kRoleData);
    }
    const uint64_t used = entry.bitmap & kAllAllocated;
    if (used == 0) return with(kRoleReserved);
    return with(used == kAllAllocated ? kRoleData : kRoleData | kRolePartial);
  }

  void in_data_file(L2Entry entry, const Table& table, uint64_t index) {
    if (!has_host_cluster(entry, header_)) return;
    layout_.data.add(cluster_of(table.guest) + index, 1, roles_of(entry, table.roles));
  }

  void compressed(L2Entry entry, uint8_t users) {
    const CompressedPlace place = compressed_place(entry.word & ~kCopiedFlag, header_.cluster_bits);
    if (!in_file(place.offset, place.length_bytes)) {
      ++layout_.broken_references;
      return;
    }
    const uint64_t first = cluster_of(place.offset);
    layout_.file.add(first, cluster_of(place.offset + place.length_bytes - 1) - first + 1,
                     static_cast<uint8_t>(users | kRoleCompressed | kRoleData));
  }

  void allocated(L2Entry entry, uint8_t users) {
    if (!is_aligned(entry.host_offset(), cluster_bytes()) || !in_file(entry.host_offset(), cluster_bytes())) {
      ++layout_.broken_references;
      return;
    }
    layout_.file.add(cluster_of(entry.host_offset()), 1, roles_of(entry, users));
  }

  State& state_;
  const Header& header_;
  const LayoutOptions& options_;
  ImageLayout layout_;
  std::vector<Table> tables_;
  size_t merge_at_ = 1 << 20;
};

io::task<ImageLayout> walk_at_home(State& state, LayoutOptions options) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_return co_await LayoutWalk(state, options).run();
}

io::task<uint64_t> refcount_at_home(State& state, uint64_t cluster) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  const uint64_t block = cluster / state.header.refcounts_per_block();
  const DiskTable& table = state.refcounts.table();
  if (block >= table.size() || table[block] == 0 || !is_aligned(table[block], state.cluster_bytes()) ||
      table[block] >= state.file->length_bytes())
    co_return 0;
  co_return co_await state.refcounts.get(cluster);
}

}  // namespace

io::task<ImageLayout> layout_of(Image& image, LayoutOptions options) {
  return at_home(image.state(), walk_at_home(image.state(), std::move(options)));
}

io::task<uint64_t> stored_refcount(Image& image, uint64_t cluster) {
  return at_home(image.state(), refcount_at_home(image.state(), cluster));
}

}  // namespace cofre::qcow2
