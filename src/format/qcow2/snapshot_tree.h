// Everything that one L1 table refers to: its L2 tables, and the host clusters that they name. Each L1 table
// of an image, the active one and those of snapshots, counts one reference for all of that. Source: qcow2
// specification, "Snapshots", "Cluster mapping". Home lane; `metadata` is held.
#pragma once

#include <cstdint>
#include <vector>

#include "format/qcow2/state.h"

namespace cofre::qcow2 {

class SnapshotTree {
 public:
  SnapshotTree(State& state, std::vector<uint64_t> l1) : state_(state), l1_(std::move(l1)) {}

  const std::vector<uint64_t>& l1() const noexcept { return l1_; }

  // Another L1 table is about to refer to all of it: one more reference each. Clears the copied flags of the
  // L2 tables, and of the entries in l1(). Throws Error kLimit if refcounts cannot tell that many references,
  // kCorrupt; undo() is to be called then.
  io::task<void> share();
  // Takes back what share() did, as far as it came, and lets the active tables have their copied flags again.
  io::task<void> undo();
  // The L1 table is gone, on disk too: one reference less each; what has none left is free. Lets the active
  // tables know by their copied flags what is now theirs alone.
  io::task<void> release();

 private:
  // Neighbouring host clusters whose refcounts lie in one slice.
  using Runs = std::vector<ClusterRun>;
  void add_run(Runs& runs, uint64_t host_offset, uint64_t clusters) const;
  void add_entry(Runs& runs, L2Entry entry) const;
  uint64_t guest_of(size_t index) const noexcept { return index * state_.bytes_per_l2_table; }
  uint64_t slices_per_table() const noexcept {
    return state_.cluster_bytes() / state_.l2_cache.slice_bytes();
  }
  uint64_t entries_per_slice() const noexcept {
    return state_.l2_cache.slice_bytes() / state_.header.l2_entry_bytes();
  }
  io::task<Runs> runs_of(uint64_t slice_offset, uint64_t guest);
  io::task<void> clear_copied(uint64_t slice_offset);

  io::task<void> share_table(size_t index);
  io::task<void> undo_table(size_t index);
  io::task<void> release_table(size_t index);
  io::task<void> release_run(ClusterRun run);

  // The flags of the active L1 entry and its table, as the refcounts have it.
  io::task<void> set_copied(size_t index);
  io::task<void> set_copied_in_slice(uint64_t slice_offset, uint64_t guest);

  State& state_;
  std::vector<uint64_t> l1_;
  uint64_t added_ = 0;  // references (runs) that share() has added, in the order of the walk
};

}  // namespace cofre::qcow2
