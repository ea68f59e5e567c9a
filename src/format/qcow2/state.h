// What an open qcow2 image consists of, and its three steps: map (mapping.cc), move (transfer.cc), commit
// (write.cc).
//
// Home lane: everything except GuestCipher and the transfer functions, which run on any lane. `metadata` is
// held by whoever changes tables or refcounts; lookups do not take it. Requests that change the mapping of
// guest clusters hold them in `guest_ranges`; transfers into clusters that stay mapped only begin a
// Retired::Transfer.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/checked.h"
#include "block/device.h"
#include "block/range_lock.h"
#include "crypto/secret.h"
#include "format/qcow2/bitmaps.h"
#include "format/qcow2/disk_table.h"
#include "format/qcow2/entries.h"
#include "format/qcow2/guest_cipher.h"
#include "format/qcow2/header.h"
#include "format/qcow2/image.h"
#include "format/qcow2/metadata_map.h"
#include "format/qcow2/refcounts.h"
#include "format/qcow2/retired.h"
#include "format/qcow2/slice_cache.h"
#include "io/sync.h"

namespace cofre::qcow2 {

// A stretch of the guest that is stored one way in one piece.
struct Run {
  Storage storage = Storage::kUnallocated;
  bool copied = false;  // the host cluster is this image's alone: it may be written in place
  uint64_t length_bytes = 0;
  bool has_host = false;  // a host cluster stands behind it, whether or not these bytes of it are used
  HostOffset host;        // of the first byte, if has_host
  uint64_t compressed_word = 0;

  bool in_place() const noexcept { return storage == Storage::kNormal && copied; }
};

// What is wanted of one compressed cluster.
struct CompressedPart {
  CompressedPlace place;
  uint64_t offset_in_cluster;
  Bytes destination;
};

struct State {
  State(std::unique_ptr<block::Device> file, Header header, const OpenOptions& options);

  // ---- geometry ----
  uint64_t cluster_bytes() const noexcept { return header.cluster_bytes(); }
  uint64_t cluster_start(uint64_t guest) const noexcept { return guest & ~(cluster_bytes() - 1); }
  uint64_t cluster_end(uint64_t guest) const noexcept { return (guest | (cluster_bytes() - 1)) + 1; }
  uint64_t l1_index(uint64_t guest) const noexcept { return guest / bytes_per_l2_table; }
  // Where the VM state lies in the address space of the guest: from the first L2 table past the disk on.
  uint64_t vm_state_start() const noexcept { return align_up(header.size_bytes, bytes_per_l2_table); }
  block::Device& data() const noexcept { return external_data ? *external_data : *file; }

  // ---- map (mapping.cc) ----
  // The run that starts at `guest`, at most `length` long; nothing if its slice is not in memory.
  std::optional<Run> try_lookup(uint64_t guest, uint64_t length);
  io::task<Run> lookup(uint64_t guest, uint64_t length);
  // Whether the run reads as zero without asking anybody.
  bool reads_zero(const Run& run) const noexcept;

  // ---- tables for writing (tables.cc); `metadata` is held ----
  // Entries are checked as they are read: throws Error kCorrupt for what the specification does not allow.
  io::task<L2Entry> entry_at(uint64_t guest);
  L2Entry entry_in(const Slice& slice, uint64_t guest) const;
  // The guest offset where the slice ends that maps `guest`.
  uint64_t slice_coverage_end(uint64_t guest) const noexcept;
  // The slice that holds guest's entry, in a table that is this image's alone (made or copied if need be).
  io::task<SlicePtr> writable_slice(uint64_t guest);
  void set_entry(Slice& slice, uint64_t guest, L2Entry entry);
  // Throws Error kCorrupt unless the entry of an L1 table names a cluster of the file.
  uint64_t checked_l2_offset(uint64_t l1_entry, uint64_t guest) const;
  // Moves the L1 table to a longer one (resize.cc). Throws Error kLimit.
  io::task<void> grow_l1(uint64_t entries);
  // The entries of an L1 table that covers so many bytes of the guest. Throws Error kLimit.
  uint64_t l1_entries_for(uint64_t length) const;
  // Gives up what an entry that is being replaced refers to.
  void retire_entry(L2Entry entry, bool discard);

  // ---- move (transfer.cc); any lane ----
  io::task<void> read_stored(uint64_t guest, HostOffset host, Bytes destination);
  io::task<void> write_stored(uint64_t guest, HostOffset host, ConstBytes source);
  io::task<void> read_backing(uint64_t guest, Bytes destination);
  // Reads the parts with as few requests as their places allow.
  io::task<void> read_compressed(std::span<const CompressedPart> parts);
  // Maps and moves; starts on the home lane and returns there, moving bytes on `lane`.
  io::task<void> read_range(io::Reactor& lane, uint64_t guest, Bytes destination);

  // ---- write, zero, discard (write.cc, unmap.cc) ----
  io::task<void> write_range(io::Reactor& lane, uint64_t guest, ConstBytes source);
  io::task<void> zero_range(io::Reactor& lane, uint64_t guest, uint64_t length, bool may_unmap);
  io::task<void> discard_range(uint64_t guest, uint64_t length);

  // ---- emptying (empty.cc) ----
  io::task<void> empty();

  // ---- change of size (resize.cc, shrink.cc) ----
  // Makes all changes durable, and then the disk's new size. `metadata` is held.
  io::task<void> write_size(uint64_t length);
  io::task<void> shrink(uint64_t length);
  // Zeroes what this image stores of [guest, end); the rest keeps its mapping.
  io::task<void> zero_stored(uint64_t guest, uint64_t end, bool may_unmap);
  // Maps every cluster from `begin` on.
  io::task<void> preallocate(uint64_t begin, Preallocation mode);

  // ---- order on disk (writeback.cc) ----
  // Before the first change: drops autoclear features that are not kept up, sets the dirty bit of lazy
  // refcounts, has the bitmaps follow.
  io::task<void> prepare_to_change();
  // The same where only tables change and the disk reads as before: bitmaps stay true. `metadata` is held.
  // Everything is on disk afterwards and refcounts are in order, whatever they are in between.
  io::task<void> prepare_to_rearrange();
  // Writes what is dirty in the order that a crash needs; `metadata` is held.
  io::task<void> write_back(bool durable);
  // Until nothing is dirty and nothing waits to be released; then the dirty bit may go. `metadata` is held.
  io::task<void> settle();
  // Until all transfers that had begun are over. `metadata` is held, and nothing waits to be released.
  io::task<void> wait_for_transfers();
  // Called under `metadata` by operations that dirty tables, to keep memory bounded.
  io::task<void> relieve();
  bool needs_relief() noexcept;
  io::task<void> write_header_fields(uint64_t offset, ConstBytes fields);
  // The image says in its header that it is damaged: no other program will write to it before it was checked.
  io::task<void> set_corrupt_bit();
  // Gives space of the host file back, as far as the file goes.
  io::task<void> discard_host(uint64_t offset, uint64_t length);
  // Flushes the file (and the data file). Writes that a failed flush may have lost count as done in memory,
  // so after one nothing more is written.
  io::task<void> barrier();
  io::task<void> file_barrier();
  // Throws what the image must say from now on when a metadata update stopped half-way.
  void require_usable() const;

  // Marks the host clusters of metadata other than the refcount structure's.
  void note_metadata();
  // The same for the tables of snapshots. Before the first change, once.
  io::task<void> note_snapshot_tables();
  // Throws unless the image may be written: rights, damage.
  void require_writable() const;
  // Throws unless content may be read or written: key, data file.
  void require_content() const;
  // The first, the second and the bounds.
  void require_access(bool to_write, uint64_t offset, uint64_t length) const;

  [[noreturn]] void fail_corrupt(const std::string& finding) const;

  std::unique_ptr<block::Device> file;
  std::unique_ptr<block::Device> external_data;
  std::unique_ptr<block::Device> backing;
  Header header;
  OpenOptions options;
  std::string name;
  block::Limits limits;
  io::Reactor& home;
  uint64_t length_bytes;
  uint64_t bytes_per_l2_table;  // of the guest

  GuestCipher cipher;
  std::vector<SnapshotEntry> snapshots;
  uint64_t snapshot_table_bytes = 0;

  MetadataMap metadata_map;
  DiskTable l1;
  SliceCache l2_cache;
  Refcounts refcounts;
  Retired retired;
  io::Mutex metadata;
  block::RangeLock guest_ranges;
  Bitmaps bitmaps{*this};
  bool prepared_to_change = false;
  bool snapshot_tables_noted = false;
  bool refcounts_lazy = false;  // the dirty bit is set on disk: refcounts need not be in order
  bool unusable = false;
  std::atomic<bool> damaged = false;  // a change met damaged metadata: no further one is taken

 private:
  const Slice* cached_slice(uint64_t l1_entry, uint64_t guest);
  uint64_t slice_offset(uint64_t l1_entry, uint64_t guest) const noexcept;
  uint64_t index_in_slice(uint64_t guest) const noexcept;
  uint64_t unmapped_length(uint64_t guest, uint64_t length) const noexcept;
  Run run_in_slice(const Slice& slice, uint64_t guest, uint64_t length) const;
  void check_entry(L2Entry entry, uint64_t guest) const;
  io::task<void> empty_table(uint64_t l1_index);
  io::task<void> make_l2_table(uint64_t l1_index);
  io::task<void> copy_l2_table(uint64_t l1_index);
  io::task<void> release_retired();
  uint64_t collect_compressed(const Run& first, uint64_t guest, Bytes destination,
                              std::vector<CompressedPart>& parts);
  void check_place(CompressedPlace place) const;
  void decode(const CompressedPart& part, ConstBytes stream) const;
  io::task<void> read_whole_backing(uint64_t guest, Bytes destination);
  io::task<void> unmap_from(uint64_t begin);
  io::task<void> cut_files();
  io::task<void> drop_autoclear_features(uint64_t kept);
};

// Rebuilds refcounts after an unclean end of an image with lazy refcounts, and clears the dirty bit
// (check.cc).
io::task<void> repair_dirty(Image& image);

}  // namespace cofre::qcow2
