// L1 and L2 tables for writing: made when missing, copied when a snapshot shares them.
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/read_padded.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

io::task<L2Entry> State::entry_at(uint64_t guest) {
  const uint64_t l1_entry = l1[l1_index(guest)];
  if ((l1_entry & kOffsetMask) == 0) co_return L2Entry{};
  checked_l2_offset(l1_entry, guest);
  const SlicePtr slice = co_await l2_cache.load(slice_offset(l1_entry, guest));
  co_return entry_in(*slice, guest);
}

L2Entry State::entry_in(const Slice& slice, uint64_t guest) const {
  const L2Entry entry = load_entry(slice.bytes.data(), index_in_slice(guest), header.extended_l2());
  check_entry(entry, guest);
  if (has_host_cluster(entry, header) && !header.external_data() &&
      metadata_map.overlaps(entry.host_offset(), 1))
    fail_corrupt(fmt::format("guest offset {} is mapped onto metadata at host offset {}; nothing was written",
                             guest, entry.host_offset()));
  return entry;
}

uint64_t State::slice_coverage_end(uint64_t guest) const noexcept {
  const uint64_t covered = l2_cache.slice_bytes() / header.l2_entry_bytes() << header.cluster_bits;
  return guest - guest % covered + covered;
}

io::task<void> State::make_l2_table(uint64_t index) {
  const ClusterRun place = co_await refcounts.allocate_exactly(1);
  l2_cache.drop(place.host_offset, cluster_bytes());
  try {
    file->raise(block::Event::kL2AllocWrite);
    co_await file->write_zeroes(place.host_offset, cluster_bytes());
  } catch (...) {
    unusable = true;  // the cluster stays taken: a leak, found by check
    throw;
  }
  metadata_map.add(place.host_offset);
  l1.set(index, place.host_offset | kCopiedFlag);
}

io::task<void> State::copy_l2_table(uint64_t index) {
  const uint64_t old = checked_l2_offset(l1[index], index * bytes_per_l2_table);
  const ClusterRun place = co_await refcounts.allocate_exactly(1);
  l2_cache.drop(place.host_offset, cluster_bytes());
  // A shared table is never changed in memory, so the file has it as it is.
  AlignedBuffer table(cluster_bytes());
  co_await read_padded(*file, old, table.bytes());
  file->raise(block::Event::kL2AllocWrite);
  co_await file->write(place.host_offset, table.bytes());
  metadata_map.add(place.host_offset);
  l1.set(index, place.host_offset | kCopiedFlag);
  retired.retire({old, 1, false});
}

io::task<SlicePtr> State::writable_slice(uint64_t guest) {
  const uint64_t index = l1_index(guest);
  if ((l1[index] & kOffsetMask) == 0) {
    co_await make_l2_table(index);
  } else if ((l1[index] & kCopiedFlag) == 0) {
    co_await copy_l2_table(index);
  }
  checked_l2_offset(l1[index], guest);
  co_return co_await l2_cache.load(slice_offset(l1[index], guest));
}

void State::set_entry(Slice& slice, uint64_t guest, L2Entry entry) {
  store_entry(slice.bytes.data(), index_in_slice(guest), header.extended_l2(), entry);
  l2_cache.mark_dirty(slice);
}

void State::retire_entry(L2Entry entry, bool discard) {
  if (entry.compressed()) {
    const CompressedClusters touched = compressed_clusters(entry.word, header.cluster_bits);
    retired.retire({touched.host_offset, touched.count, false});
  } else if (has_host_cluster(entry, header) && !header.external_data()) {
    retired.retire({entry.host_offset(), 1, discard});
  }
}

}  // namespace cofre::qcow2
