// Making the disk shorter. What lies behind the new end is given up in this order:
//
//   L2 entries, then L1 entries -> barrier -> references of their clusters; disk size -> barrier ->
//   refcount blocks that count nothing any more -> barrier -> the file's end
//
// A crash on the way leaves a longer disk whose end is not mapped any more, and leaked clusters at most. The
// L1 table keeps its length, as with QEMU: the entries behind the end are zero.
#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

// Gives up all clusters from `begin` on, a cluster's start.
io::task<void> State::unmap_from(uint64_t begin) {
  const uint64_t shared_table_end = align_up(begin, bytes_per_l2_table);
  const uint64_t end = l1.size() * bytes_per_l2_table;
  for (uint64_t guest = begin; guest < std::min(shared_table_end, end); guest += cluster_bytes()) {
    const L2Entry old = co_await entry_at(guest);
    if (old == L2Entry{}) continue;
    const SlicePtr slice = co_await writable_slice(guest);
    set_entry(*slice, guest, {});
    retire_entry(old, /*discard=*/true);
    if (needs_relief()) co_await relieve();
  }
  for (uint64_t index = shared_table_end / bytes_per_l2_table; index < l1.size(); ++index) {
    if ((l1[index] & kOffsetMask) == 0) continue;
    co_await empty_table(index);
    co_await relieve();
  }
}

// The files end where what is in use ends.
io::task<void> State::cut_files() {
  if (external_data && external_data->limits().growable && external_data->length_bytes() > length_bytes)
    co_await external_data->resize(length_bytes);
  if (!file->limits().growable) co_return;
  // Of a file whose refcounts are wrong the metadata stays, at least.
  const uint64_t end = std::max(co_await refcounts.used_end(), metadata_map.end());
  if (end < file->length_bytes()) co_await file->resize(end);
}

io::task<void> State::zero_stored(uint64_t guest, uint64_t end, bool may_unmap) {
  while (guest < end) {
    const Run run = co_await lookup(guest, end - guest);
    if (run.storage == Storage::kNormal || run.storage == Storage::kCompressed)
      co_await zero_range(home, guest, run.length_bytes, may_unmap);
    guest += run.length_bytes;
  }
}

io::task<void> State::shrink(uint64_t length) {
  const uint64_t begin = align_up(length, cluster_bytes());
  // The bytes that this image stores behind the new end in its cluster would come back when the disk grows.
  co_await zero_stored(length, std::min(begin, length_bytes), /*may_unmap=*/false);

  block::RangeLock::Guard exclusive;
  const uint64_t end = std::max(l1.size() * bytes_per_l2_table, begin + cluster_bytes());
  co_await guest_ranges.acquire(exclusive, begin, end, true);
  const io::Mutex::Guard guard = co_await metadata.lock();
  require_usable();
  co_await unmap_from(begin);
  co_await write_size(length);
  co_await write_back(/*durable=*/true);  // the references that the first one released
  co_await refcounts.drop_unused_blocks();
  co_await write_back(/*durable=*/true);
  co_await cut_files();
}

}  // namespace cofre::qcow2
