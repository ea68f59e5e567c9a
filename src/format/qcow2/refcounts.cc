#include "format/qcow2/refcounts.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::qcow2 {

Refcounts::Refcounts(block::Device& file, Header& header, MetadataMap& metadata, uint64_t cache_bytes)
    : file_(file),
      header_(header),
      metadata_(metadata),
      cache_(file, slice_bytes_for(header.cluster_bytes()), cache_bytes, block::Event::kRefBlockLoad,
             block::Event::kRefBlockUpdate),
      fresh_from_(align_up(file.length_bytes(), header.cluster_bytes())) {}

io::task<void> Refcounts::load_table(bool tolerant) {
  const uint64_t bytes = uint64_t{header_.refcount_table_clusters} << header_.cluster_bits;
  const uint64_t there =
      std::min(bytes, file_.length_bytes() - std::min(file_.length_bytes(), header_.refcount_table_offset));
  // Entries past the end of the file read as zero; memory is spent on what is there.
  co_await table_.read(file_, header_.refcount_table_offset,
                       std::min(bytes, align_up<uint64_t>(there, header_.cluster_bytes())) / 8);
  metadata_.add(header_.refcount_table_offset, bytes);
  for (uint64_t i = 0; i < table_.size(); ++i) {
    const uint64_t block = table_[i];
    if (block == 0) continue;
    const bool sound = is_aligned(block, header_.cluster_bytes()) && block < file_.length_bytes();
    if (!sound && tolerant) continue;
    if (!sound)
      fail(ErrorKind::kCorrupt,
           "'{}': refcount table entry {} names a block at offset {}, which is not a cluster of the file; "
           "run check -r all",
           file_.name(), i, block);
    metadata_.add(block);
  }
}

io::task<void> Refcounts::reload(bool tolerant) {
  cache_.clear();
  first_maybe_free_ = 0;
  open_at_ = 0;
  fresh_from_ = align_up(file_.length_bytes(), header_.cluster_bytes());
  co_await load_table(tolerant);
}

Refcounts::Position Refcounts::position(uint64_t cluster) const noexcept {
  const uint64_t per_block = header_.refcounts_per_block();
  const uint64_t block = cluster / per_block;
  const uint64_t bits = (cluster % per_block) << header_.refcount_order;
  const uint64_t slice_bits = uint64_t{cache_.slice_bytes()} * 8;
  const uint64_t block_offset = block < table_.size() ? table_[block] : 0;
  return {block, block_offset + bits / slice_bits * cache_.slice_bytes(),
          (bits % slice_bits) >> header_.refcount_order};
}

io::task<SlicePtr> Refcounts::slice_at(uint64_t slice_offset) {
  return cache_.load(slice_offset);
}

io::task<uint64_t> Refcounts::get(uint64_t cluster) {
  const Position at = position(cluster);
  if (!has_block(at.block)) co_return 0;
  if (const Slice* slice = cache_.find(at.slice_offset))
    co_return load_refcount(slice->bytes.data(), at.index, header_.refcount_order);
  const SlicePtr slice = co_await slice_at(at.slice_offset);
  co_return load_refcount(slice->bytes.data(), at.index, header_.refcount_order);
}

io::task<void> Refcounts::adjust(uint64_t host_offset, uint64_t clusters, int64_t delta) {
  const uint64_t first = host_offset >> header_.cluster_bits;
  for (uint64_t cluster = first; cluster < first + clusters;) {
    const Position at = position(cluster);
    if (!has_block(at.block))
      fail(ErrorKind::kCorrupt,
           "'{}': the cluster at offset {} is in use but has no refcount; run check -r all", file_.name(),
           cluster << header_.cluster_bits);
    const SlicePtr slice = co_await slice_at(at.slice_offset);
    const uint64_t here = std::min(clusters_per_slice() - at.index, first + clusters - cluster);
    check_adjustable(*slice, at.index, here, cluster, delta);
    for (uint64_t i = 0; i < here; ++i) {
      const uint64_t now = load_refcount(slice->bytes.data(), at.index + i, header_.refcount_order) +
                           static_cast<uint64_t>(delta);
      store_refcount(slice->bytes.data(), at.index + i, header_.refcount_order, now);
      if (now == 0) note_free(cluster + i);
    }
    cache_.mark_dirty(*slice);
    cluster += here;
  }
}

void Refcounts::check_adjustable(const Slice& slice, uint64_t index, uint64_t count, uint64_t cluster,
                                 int64_t delta) const {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t old = load_refcount(slice.bytes.data(), index + i, header_.refcount_order);
    const uint64_t now = old + static_cast<uint64_t>(delta);
    if (delta < 0 && old < static_cast<uint64_t>(-delta))
      fail(ErrorKind::kCorrupt,
           "'{}': the refcount of the cluster at offset {} is {} though it is in use; run check -r all",
           file_.name(), (cluster + i) << header_.cluster_bits, old);
    if (delta > 0 && (now < old || now > max_refcount(header_.refcount_order)))
      fail(ErrorKind::kLimit,
           "'{}': the cluster at offset {} has more references than {}-bit refcounts can tell", file_.name(),
           (cluster + i) << header_.cluster_bits, header_.refcount_bits());
  }
}

// How many clusters from `cluster` on are free, at most `most`, within the slice or block that holds the
// first.
io::task<uint64_t> Refcounts::count_free(uint64_t cluster, uint64_t most) {
  if (cluster < reserved_end_ && cluster >= reserved_first_) co_return 0;
  if (cluster < reserved_first_) most = std::min(most, reserved_first_ - cluster);
  const Position at = position(cluster);
  if (!has_block(at.block)) {
    const uint64_t per_block = header_.refcounts_per_block();
    co_return std::min(most, per_block - cluster % per_block);
  }
  const SlicePtr slice = co_await slice_at(at.slice_offset);
  most = std::min(most, clusters_per_slice() - at.index);
  uint64_t free = 0;
  while (free < most && load_refcount(slice->bytes.data(), at.index + free, header_.refcount_order) == 0)
    ++free;
  co_return free;
}

void Refcounts::check_host_limit(uint64_t cluster) const {
  if (cluster >= kHostOffsetLimit >> header_.cluster_bits)
    fail(ErrorKind::kNoSpace, "'{}': a qcow2 file cannot pass 64 PiB", file_.name());
}

io::task<ClusterRun> Refcounts::find_free(uint64_t from, uint64_t want, bool shorter) {
  uint64_t start = from;
  uint64_t found = 0;
  bool all_taken_before = from == first_maybe_free_;
  while (found < want) {
    check_host_limit(start + found);
    const uint64_t more = co_await count_free(start + found, want - found);
    if (more > 0 && all_taken_before) first_maybe_free_ = start;
    all_taken_before = all_taken_before && more == 0;
    found += more;
    if (more > 0) continue;  // the run may go on in the next slice
    if (found > 0 && shorter) break;
    start += found + 1;
    found = 0;
  }
  const uint64_t offset = start << header_.cluster_bits;
  if (metadata_.overlaps(offset, found << header_.cluster_bits))
    fail(ErrorKind::kCorrupt,
         "'{}': the refcounts say that the cluster at offset {} is free, but metadata lies there; nothing "
         "was written. "
         "Run check -r all",
         file_.name(), offset);
  co_return ClusterRun{offset, found, offset >= fresh_from_};
}

void Refcounts::note_taken(const ClusterRun& run) noexcept {
  const uint64_t first = run.host_offset >> header_.cluster_bits;
  if (first_maybe_free_ == first) first_maybe_free_ = first + run.clusters;
  fresh_from_ = std::max(fresh_from_, run.host_offset + (run.clusters << header_.cluster_bits));
}

io::task<ClusterRun> Refcounts::take(uint64_t want, bool shorter) {
  while (true) {
    const ClusterRun run = co_await find_free(first_maybe_free_, want, shorter);
    const uint64_t first = run.host_offset >> header_.cluster_bits;
    if (co_await ensure_blocks(first, run.clusters))
      continue;  // a new block may have taken these very clusters
    co_await adjust(run.host_offset, run.clusters, +1);
    note_taken(run);
    co_return run;
  }
}

io::task<ClusterRun> Refcounts::allocate(uint64_t most) {
  file_.raise(block::Event::kClusterAlloc);
  return take(most, /*shorter=*/true);
}

io::task<ClusterRun> Refcounts::allocate_exactly(uint64_t clusters) {
  file_.raise(block::Event::kClusterAlloc);
  return take(clusters, /*shorter=*/false);
}

// Whoever takes the cluster next may put anything there: no compressed bytes are added to it any more.
void Refcounts::note_free(uint64_t cluster) noexcept {
  first_maybe_free_ = std::min(first_maybe_free_, cluster);
  if (open_at_ >> header_.cluster_bits == cluster) open_at_ = 0;
}

io::task<uint64_t> Refcounts::open_room() {
  const uint64_t room = align_up(open_at_, header_.cluster_bytes()) - open_at_;
  if (room == 0) co_return 0;
  const uint64_t references = co_await get(open_at_ >> header_.cluster_bits);
  co_return references < max_refcount(header_.refcount_order) ? room : 0;
}

io::task<uint64_t> Refcounts::allocate_bytes(uint64_t length) {
  const uint64_t room = co_await open_room();
  uint64_t start = open_at_;
  if (length > room) {
    const ClusterRun next = co_await allocate(1);
    if (room == 0 || next.host_offset != start + room) start = next.host_offset;
    if (start >= compressed_offset_limit(header_.cluster_bits)) {
      co_await adjust(next.host_offset, 1, -1);
      fail(ErrorKind::kNoSpace, "'{}': compressed clusters cannot lie at host offset {} and behind",
           file_.name(), compressed_offset_limit(header_.cluster_bits));
    }
  }
  // A cluster just taken counts this reference already.
  if (room > 0 && start == open_at_) co_await adjust(start, 1, +1);
  open_at_ = start + length;
  co_return start;
}

void Refcounts::start_sector() noexcept {
  open_at_ = align_up<uint64_t>(open_at_, kSectorBytes);
}

io::task<bool> Refcounts::ensure_blocks(uint64_t first_cluster, uint64_t clusters) {
  const uint64_t per_block = header_.refcounts_per_block();
  bool made = false;
  for (uint64_t block = first_cluster / per_block; block <= (first_cluster + clusters - 1) / per_block;
       ++block) {
    while (!has_block(block)) {
      if (block >= table_.size()) {
        co_await grow_table(block + 1);
      } else {
        co_await make_block(block);
      }
      made = true;
    }
  }
  co_return made;
}

// Makes one refcount block: `block`, or one that must be there first because the new block's own count lies
// in it.
io::task<void> Refcounts::make_block(uint64_t block) {
  file_.raise(block::Event::kRefBlockAlloc);
  const ClusterRun place = co_await find_free(first_maybe_free_, 1, /*shorter=*/true);
  const uint64_t cluster = place.host_offset >> header_.cluster_bits;
  const uint64_t describing = cluster / header_.refcounts_per_block();
  if (describing >= table_.size()) co_return co_await grow_table(describing + 1);
  const uint64_t made = has_block(describing) ? block : describing;
  cache_.drop(place.host_offset, header_.cluster_bytes());
  co_await file_.write_zeroes(place.host_offset, header_.cluster_bytes());
  const bool nested = std::exchange(broken_, true);  // until this has come to its end
  table_.set(made, place.host_offset);
  metadata_.add(place.host_offset);
  co_await adjust(place.host_offset, 1, +1);
  broken_ = nested;
  note_taken(place);
}

// Moves the refcount table to a longer one. The blocks and the new table reach the disk before the header
// names them.
io::task<void> Refcounts::grow_table(uint64_t entries_needed) {
  const uint64_t per_cluster = header_.cluster_bytes() / 8;
  const uint64_t most = kMaxRefcountTableBytes / 8;
  const uint64_t old_offset = header_.refcount_table_offset;
  const uint64_t old_clusters = header_.refcount_table_clusters;
  uint64_t entries = align_up(std::max(entries_needed, table_.size() + table_.size() / 2), per_cluster);
  if (entries > most) entries = align_down(most, per_cluster);
  if (entries < entries_needed)
    fail(ErrorKind::kNoSpace,
         "'{}': the file cannot grow further: its refcount table is at 8 MiB. Convert it to larger clusters",
         file_.name());
  const uint64_t table_clusters = entries / per_cluster;

  const ClusterRun place = co_await find_free(first_maybe_free_, table_clusters, /*shorter=*/false);
  const uint64_t first = place.host_offset >> header_.cluster_bits;
  const uint64_t last_block =
      (first + 2 * table_clusters + 1) / header_.refcounts_per_block();  // and new blocks' own
  if (last_block >= entries) co_return co_await grow_table(last_block + 1);
  const bool nested = std::exchange(broken_, true);  // until the header names the new table
  reserved_first_ = first;
  reserved_end_ = first + table_clusters;
  std::vector<uint64_t> longer = table_.values();
  longer.resize(entries);
  table_.assign(place.host_offset, std::move(longer));
  co_await ensure_blocks(first, table_clusters);
  reserved_first_ = reserved_end_ = 0;
  co_await adjust(place.host_offset, table_clusters, +1);
  note_taken(place);
  metadata_.add(place.host_offset, table_clusters << header_.cluster_bits);

  co_await cache_.write_dirty();
  co_await table_.write_whole(file_, table_clusters << header_.cluster_bits);
  co_await file_.flush();
  co_await write_header_table_fields(place.host_offset, static_cast<uint32_t>(table_clusters));
  co_await file_.flush();
  header_.refcount_table_offset = place.host_offset;
  header_.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  metadata_.remove(old_offset, old_clusters << header_.cluster_bits);
  co_await adjust(old_offset, old_clusters, -1);
  broken_ = nested;
}

io::task<void> Refcounts::write_header_table_fields(uint64_t offset, uint32_t clusters) {
  std::array<std::byte, 12> fields;  // offsets 48 and 56 of the header: one sector, one write
  store_be(fields.data(), offset);
  store_be(fields.data() + 8, clusters);
  co_await file_.write(48, fields);
}

}  // namespace cofre::qcow2
