// What the parts of the check share. The check reads and writes the tables directly, past the image's caches,
// on the home lane with `metadata` held.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "format/qcow2/check.h"
#include "format/qcow2/check_counts.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

// An L2 table, and how often the active L1 table and those of snapshots name it.
struct TableUse {
  uint64_t offset = 0;
  uint64_t active = 0;
  uint64_t snapshots = 0;
  bool alone = false;  // no other metadata lies in its cluster: it may be written

  uint64_t uses() const noexcept { return active + snapshots; }
};

struct CheckContext {
  CheckContext(State& state, const CheckOptions& options, CheckResult& result);

  uint64_t cluster_bytes() const noexcept { return state.cluster_bytes(); }
  uint64_t cluster_of(uint64_t host_offset) const noexcept {
    return host_offset >> state.header.cluster_bits;
  }
  // Host clusters that the file has, the last one perhaps not whole.
  uint64_t file_clusters() const noexcept;

  // A fault that stays, counted `times` (once for each table that leads to it).
  void corruption(uint64_t times, const std::string& finding);
  void say(const std::string& sentence) const;
  // What the end of a finding says where nothing is repaired: what -r all would do.
  std::string would(const std::string& what) const { return repair_errors ? "" : "; -r all " + what; }
  void unreadable(uint64_t places, const std::string& finding);
  // To be called now and then: tells progress, and throws Error kCancelled if so wished.
  void step(uint64_t done, uint64_t total) const;

  // Whether [offset, offset + length) lies in the file; its last cluster may be cut off.
  bool in_file(uint64_t offset, uint64_t length) const noexcept;
  // Reads what the file has; the rest reads as zero.
  io::task<void> read(uint64_t offset, Bytes destination) const;

  State& state;
  const CheckOptions& options;
  CheckResult& result;
  bool repair_errors;
  bool repair_leaks;

  ReferenceCounts counts;
  std::vector<TableUse> l2_tables;           // in the order of the file
  bool l1_alone = false;                     // no other metadata lies in the active L1 table's clusters
  std::vector<uint64_t> structure_clusters;  // of the refcount table and blocks, as counted
  std::set<uint64_t> bad_blocks;             // indices of the refcount table whose blocks cannot be used
  bool must_rebuild = false;                 // the refcount structure itself is damaged
  bool drop_bitmaps = false;                 // their directory shares its clusters with other metadata
  bool flags_suspect = false;                // some copied flag may not agree with its refcount
  bool incomplete = false;  // a table could not be followed: clusters without references may be in use
};

// check_walk.cc: fills counts and l2_tables from everything that refers to clusters. With repair_errors,
// drops L2 entries that are invalid and hold no data.
io::task<void> count_references(CheckContext& context);

// check_refcounts.cc: compares the refcounts on disk with the counts, and repairs them in place. Afterwards
// `counts` holds what is on disk for every referenced cluster, unless a rebuild is to follow, which needs the
// references.
io::task<void> compare_refcounts(CheckContext& context);

// check_rebuild.cc: writes a new refcount structure past everything in the file, and lets the header name it.
io::task<void> rebuild_refcounts(CheckContext& context);

// check_copied.cc: the flags in the active L1 and L2 tables that say that a refcount is exactly 1. Reads the
// L2 tables again only where one may be wrong.
io::task<void> check_copied_flags(CheckContext& context);

// The refcount that the disk has for a cluster; nothing if its block cannot be used.
class StoredRefcounts {
 public:
  explicit StoredRefcounts(CheckContext& context) : context_(context) {}
  io::task<std::optional<uint64_t>> of(uint64_t cluster);

 private:
  CheckContext& context_;
  static constexpr uint64_t kPieceBytes = 512;
  uint64_t piece_offset_ = UINT64_MAX;
  AlignedBuffer piece_;
};

}  // namespace cofre::qcow2
