#include "format/qcow2/snapshot_tree.h"

#include <algorithm>

#include "base/checked.h"

namespace cofre::qcow2 {

void SnapshotTree::add_run(Runs& runs, uint64_t host_offset, uint64_t clusters) const {
  const uint32_t bits = state_.header.cluster_bits;
  const uint64_t per_slice = state_.refcounts.clusters_per_slice();
  while (clusters > 0) {
    const uint64_t cluster = host_offset >> bits;
    const uint64_t here = std::min(clusters, per_slice - cluster % per_slice);
    ClusterRun* const last = runs.empty() ? nullptr : &runs.back();
    if (last != nullptr && last->host_offset + (last->clusters << bits) == host_offset &&
        cluster % per_slice != 0) {
      last->clusters += here;
    } else {
      runs.push_back({.host_offset = host_offset, .clusters = here});
    }
    host_offset += here << bits;
    clusters -= here;
  }
}

void SnapshotTree::add_entry(Runs& runs, L2Entry entry) const {
  if (entry.compressed()) {
    const CompressedClusters touched = compressed_clusters(entry.word, state_.header.cluster_bits);
    add_run(runs, touched.host_offset, touched.count);
  } else if (has_host_cluster(entry, state_.header)) {
    add_run(runs, entry.host_offset(), 1);
  }
}

io::task<SnapshotTree::Runs> SnapshotTree::runs_of(uint64_t slice_offset, uint64_t guest) {
  const SlicePtr slice = co_await state_.l2_cache.load(slice_offset);
  Runs runs;
  for (uint64_t i = 0; i < entries_per_slice(); ++i)
    add_entry(runs, state_.entry_in(*slice, guest + (i << state_.header.cluster_bits)));
  co_return runs;
}

io::task<void> SnapshotTree::clear_copied(uint64_t slice_offset) {
  const SlicePtr slice = co_await state_.l2_cache.load(slice_offset);
  const bool extended = state_.header.extended_l2();
  for (uint64_t i = 0; i < entries_per_slice(); ++i) {
    L2Entry entry = load_entry(slice->bytes.data(), i, extended);
    if (!entry.copied()) continue;
    entry.word &= ~kCopiedFlag;
    store_entry(slice->bytes.data(), i, extended, entry);
    state_.l2_cache.mark_dirty(*slice);
  }
}

io::task<void> SnapshotTree::share() {
  for (size_t i = 0; i < l1_.size(); ++i)
    if ((l1_[i] & kOffsetMask) != 0) co_await share_table(i);
}

io::task<void> SnapshotTree::share_table(size_t index) {
  const uint64_t table = state_.checked_l2_offset(l1_[index], guest_of(index));
  co_await state_.refcounts.adjust(table, 1, +1);
  ++added_;
  uint64_t guest = guest_of(index);
  for (uint64_t at = table; at < table + state_.cluster_bytes(); at += state_.l2_cache.slice_bytes()) {
    for (const ClusterRun& run : co_await runs_of(at, guest)) {
      co_await state_.refcounts.adjust(run.host_offset, run.clusters, +1);
      ++added_;
    }
    co_await clear_copied(at);
    guest += entries_per_slice() << state_.header.cluster_bits;
  }
  l1_[index] &= ~kCopiedFlag;
  co_await state_.relieve();
}

io::task<void> SnapshotTree::undo() {
  for (size_t i = 0; i < l1_.size() && added_ > 0; ++i)
    if ((l1_[i] & kOffsetMask) != 0) co_await undo_table(i);
  co_await state_.write_back(/*durable=*/true);
}

io::task<void> SnapshotTree::undo_table(size_t index) {
  const uint64_t table = l1_[index] & kOffsetMask;
  co_await state_.refcounts.adjust(table, 1, -1);
  --added_;
  uint64_t guest = guest_of(index);
  for (uint64_t at = table; at < table + state_.cluster_bytes(); at += state_.l2_cache.slice_bytes()) {
    if (added_ == 0) break;
    for (const ClusterRun& run : co_await runs_of(at, guest)) {
      if (added_ == 0) break;
      co_await state_.refcounts.adjust(run.host_offset, run.clusters, -1);
      --added_;
    }
    guest += entries_per_slice() << state_.header.cluster_bits;
  }
  co_await set_copied(index);
  co_await state_.relieve();
}

io::task<void> SnapshotTree::release() {
  for (size_t i = 0; i < l1_.size(); ++i)
    if ((l1_[i] & kOffsetMask) != 0) co_await release_table(i);
}

io::task<void> SnapshotTree::release_table(size_t index) {
  const uint64_t table = state_.checked_l2_offset(l1_[index], guest_of(index));
  uint64_t guest = guest_of(index);
  for (uint64_t at = table; at < table + state_.cluster_bytes(); at += state_.l2_cache.slice_bytes()) {
    for (const ClusterRun& run : co_await runs_of(at, guest)) co_await release_run(run);
    guest += entries_per_slice() << state_.header.cluster_bits;
  }
  co_await release_run({.host_offset = table, .clusters = 1});
  if (co_await state_.refcounts.get(table >> state_.header.cluster_bits) == 0)
    state_.l2_cache.drop(table, state_.cluster_bytes());
  co_await set_copied(index);
  co_await state_.relieve();
}

// Clusters that nothing names any more are given back to the host in as long pieces as they lie together.
io::task<void> SnapshotTree::release_run(ClusterRun run) {
  co_await state_.refcounts.adjust(run.host_offset, run.clusters, -1);
  const uint64_t end = run.host_offset + (run.clusters << state_.header.cluster_bits);
  uint64_t free_from = run.host_offset;
  const bool discard = state_.options.discard_snapshot;
  for (uint64_t at = run.host_offset; at < end; at += state_.cluster_bytes()) {
    if (co_await state_.refcounts.get(at >> state_.header.cluster_bits) == 0) {
      state_.metadata_map.remove(at);
      continue;
    }
    if (discard) co_await state_.discard_host(free_from, at - free_from);
    free_from = at + state_.cluster_bytes();
  }
  if (discard) co_await state_.discard_host(free_from, end - free_from);
}

io::task<void> SnapshotTree::set_copied(size_t index) {
  if (index >= state_.l1.size() || (state_.l1[index] & kOffsetMask) == 0) co_return;
  const uint64_t table = state_.checked_l2_offset(state_.l1[index], guest_of(index));
  // Whatever a shared table names is shared too.
  if (co_await state_.refcounts.get(table >> state_.header.cluster_bits) != 1) co_return;
  if ((state_.l1[index] & kCopiedFlag) == 0) state_.l1.set(index, table | kCopiedFlag);
  uint64_t guest = guest_of(index);
  for (uint64_t at = table; at < table + state_.cluster_bytes(); at += state_.l2_cache.slice_bytes()) {
    co_await set_copied_in_slice(at, guest);
    guest += entries_per_slice() << state_.header.cluster_bits;
  }
}

io::task<void> SnapshotTree::set_copied_in_slice(uint64_t slice_offset, uint64_t guest) {
  std::vector<L2Entry> entries;
  {
    const SlicePtr slice = co_await state_.l2_cache.load(slice_offset);
    for (uint64_t i = 0; i < entries_per_slice(); ++i)
      entries.push_back(state_.entry_in(*slice, guest + (i << state_.header.cluster_bits)));
  }
  std::vector<uint64_t> alone;
  for (uint64_t i = 0; i < entries.size(); ++i) {
    if (entries[i].copied() || !has_host_cluster(entries[i], state_.header)) continue;
    if (co_await state_.refcounts.get(entries[i].host_offset() >> state_.header.cluster_bits) == 1)
      alone.push_back(i);
  }
  if (alone.empty()) co_return;
  const SlicePtr slice = co_await state_.l2_cache.load(slice_offset);
  for (const uint64_t i : alone) {
    entries[i].word |= kCopiedFlag;
    store_entry(slice->bytes.data(), i, state_.header.extended_l2(), entries[i]);
  }
  state_.l2_cache.mark_dirty(*slice);
}

}  // namespace cofre::qcow2
