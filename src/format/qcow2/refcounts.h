// Host cluster management: reference counts and the allocation of clusters.
// Source: qcow2 specification, "Host cluster management".
//
// Everything here runs on the home lane under the image's metadata mutex. What it changes stays in memory
// until Writeback writes it in the right order. Clusters that lose their last reference are free for reuse at
// once: callers give them up only when nothing durable names them any more (State::retire).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/qcow2/disk_table.h"
#include "format/qcow2/entries.h"
#include "format/qcow2/metadata_map.h"
#include "format/qcow2/slice_cache.h"

namespace cofre::qcow2 {

struct ClusterRun {
  uint64_t host_offset = 0;
  uint64_t clusters = 0;
  bool fresh = false;  // never written since it came to the file's end: the storage reads as zero there
};

class Refcounts {
 public:
  Refcounts(block::Device& file, Header& header, MetadataMap& metadata, uint64_t cache_bytes);

  // Reads the table. Throws Error kCorrupt when an entry cannot be; `tolerant`: leaves it to the check to say
  // so.
  io::task<void> load_table(bool tolerant);
  io::task<uint64_t> get(uint64_t cluster);
  // Adds `delta` to each cluster of the run. Throws Error kCorrupt if one would drop below zero, kLimit if
  // one would pass the image's refcount width; the clusters of its slice are as before then.
  io::task<void> adjust(uint64_t host_offset, uint64_t clusters, int64_t delta);
  // A slice holds the counts of clusters from a multiple of this on.
  uint64_t clusters_per_slice() const noexcept {
    return uint64_t{cache_.slice_bytes()} * 8 >> header_.refcount_order;
  }

  // Takes up to `most` free clusters in one run (at least one), with refcount 1.
  io::task<ClusterRun> allocate(uint64_t most);
  // Takes exactly `clusters` in one run.
  io::task<ClusterRun> allocate_exactly(uint64_t clusters);

  // Takes bytes for one compressed cluster (at least one, fewer than a cluster has) and gives their host
  // offset: right behind those taken last where that can be. So compressed clusters share host clusters, each
  // of which counts one reference for every compressed cluster that touches it. Throws Error kNoSpace where
  // no descriptor could name them.
  io::task<uint64_t> allocate_bytes(uint64_t length);
  // The bytes taken next start a sector, which is theirs alone.
  void start_sector() noexcept;

  // Gives up the refcount blocks that count nothing but themselves (refcounts_trim.cc). Writes: all counts
  // that are zero must be so because nothing durable names their clusters.
  io::task<void> drop_unused_blocks();
  // Behind the last cluster that is in use, in bytes.
  io::task<uint64_t> used_end();

  const DiskTable& table() const noexcept { return table_; }
  DiskTable& table() noexcept { return table_; }
  SliceCache& cache() noexcept { return cache_; }
  // An error came while the structure itself was changed: what is in memory must not be written any more.
  bool broken() const noexcept { return broken_; }
  bool dirty() const noexcept { return cache_.has_dirty() || table_.dirty(); }
  // Everything was rebuilt on disk by a repair: forget what is in memory and read the table again.
  io::task<void> reload(bool tolerant);

 private:
  struct Position {
    uint64_t block;         // index into the refcount table
    uint64_t slice_offset;  // in the file, of the slice that holds the count
    uint64_t index;         // of the count within its slice
  };
  Position position(uint64_t cluster) const noexcept;
  bool has_block(uint64_t block) const noexcept { return block < table_.size() && table_[block] != 0; }
  io::task<SlicePtr> slice_at(uint64_t slice_offset);

  // The first run of `want` free clusters at or after `from` (shorter ones too, if `shorter`), without taking
  // it.
  io::task<ClusterRun> find_free(uint64_t from, uint64_t want, bool shorter);
  io::task<uint64_t> count_free(uint64_t cluster, uint64_t most);
  io::task<ClusterRun> take(uint64_t want, bool shorter);
  // Whether blocks had to be made (which takes clusters, so a run found before may not be free any more).
  io::task<bool> ensure_blocks(uint64_t first_cluster, uint64_t clusters);
  io::task<void> make_block(uint64_t block);
  io::task<void> grow_table(uint64_t entries_needed);
  io::task<bool> counts_nothing_else(uint64_t block);
  io::task<void> drop_blocks(const std::vector<uint64_t>& blocks);
  // Behind the last cluster in use that the block counts; 0: it counts none.
  io::task<uint64_t> used_end_in(uint64_t block);
  io::task<void> write_header_table_fields(uint64_t offset, uint32_t clusters);
  void note_taken(const ClusterRun& run) noexcept;
  void note_free(uint64_t cluster) noexcept;
  // The bytes of the cluster that open_at_ points into from there on, if one more reference to it can be
  // told.
  io::task<uint64_t> open_room();
  void check_host_limit(uint64_t cluster) const;
  void check_adjustable(const Slice& slice, uint64_t index, uint64_t count, uint64_t cluster,
                        int64_t delta) const;

  block::Device& file_;
  Header& header_;
  MetadataMap& metadata_;
  SliceCache cache_;
  DiskTable table_;
  uint64_t first_maybe_free_ = 0;  // no free cluster lies before this one
  uint64_t fresh_from_ = 0;        // bytes
  // Where the compressed bytes taken last end; at a cluster's start: that cluster is not taken yet.
  uint64_t open_at_ = 0;
  uint64_t reserved_first_ = 0;  // clusters promised to a table that is being made
  uint64_t reserved_end_ = 0;
  bool broken_ = false;
};

// The slice size for tables of this image: 4 KiB, or a cluster if that is less.
constexpr uint32_t slice_bytes_for(uint64_t cluster_bytes) noexcept {
  return cluster_bytes < 4096 ? static_cast<uint32_t>(cluster_bytes) : 4096;
}

}  // namespace cofre::qcow2
