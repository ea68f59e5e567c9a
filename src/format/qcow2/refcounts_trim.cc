// What a shorter image does not need any more of its refcounts.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "format/qcow2/refcounts.h"

namespace cofre::qcow2 {

io::task<uint64_t> Refcounts::used_end_in(uint64_t block) {
  const uint64_t per_slice = uint64_t{cache_.slice_bytes()} * 8 >> header_.refcount_order;
  const uint64_t first = block * header_.refcounts_per_block();
  for (uint64_t at = header_.cluster_bytes(); at > 0;) {
    at -= cache_.slice_bytes();
    const SlicePtr slice = co_await slice_at(table_[block] + at);
    for (uint64_t i = per_slice; i > 0; --i)
      if (load_refcount(slice->bytes.data(), i - 1, header_.refcount_order) != 0)
        co_return (first + at / cache_.slice_bytes() * per_slice + i) << header_.cluster_bits;
  }
  co_return 0;
}

io::task<uint64_t> Refcounts::used_end() {
  for (uint64_t block = table_.size(); block > 0; --block) {
    if (!has_block(block - 1)) continue;
    const uint64_t end = co_await used_end_in(block - 1);
    if (end > 0) co_return end;
  }
  co_return 0;
}

io::task<bool> Refcounts::counts_nothing_else(uint64_t block) {
  const uint64_t own = table_[block] >> header_.cluster_bits;
  const uint64_t first = block * header_.refcounts_per_block();
  const uint64_t per_slice = uint64_t{cache_.slice_bytes()} * 8 >> header_.refcount_order;
  for (uint64_t at = 0; at < header_.cluster_bytes(); at += cache_.slice_bytes()) {
    const SlicePtr slice = co_await slice_at(table_[block] + at);
    const uint64_t first_here = first + at / cache_.slice_bytes() * per_slice;
    for (uint64_t i = 0; i < per_slice; ++i)
      if (load_refcount(slice->bytes.data(), i, header_.refcount_order) != 0 && first_here + i != own)
        co_return false;
  }
  co_return true;
}

// First the table lets them go, for good; then their own clusters are free.
io::task<void> Refcounts::drop_blocks(const std::vector<uint64_t>& blocks) {
  const bool nested = std::exchange(broken_, true);
  std::vector<uint64_t> places;
  for (const uint64_t block : blocks) {
    places.push_back(table_[block]);
    cache_.drop(table_[block], header_.cluster_bytes());
    table_.set(block, 0);
  }
  co_await table_.write_dirty(file_);
  co_await file_.flush();
  for (const uint64_t place : places) {
    metadata_.remove(place);
    const uint64_t cluster = place >> header_.cluster_bits;
    if (has_block(position(cluster).block)) {
      co_await adjust(place, 1, -1);
    } else {
      note_free(cluster);  // it counted itself
    }
  }
  broken_ = nested;
}

io::task<void> Refcounts::drop_unused_blocks() {
  while (true) {  // a block may count another one only: ends, for each round leaves fewer
    std::vector<uint64_t> unused;
    for (uint64_t block = 0; block < table_.size(); ++block)
      if (has_block(block) && co_await counts_nothing_else(block)) unused.push_back(block);
    if (unused.empty()) co_return;
    co_await drop_blocks(unused);
  }
}

}  // namespace cofre::qcow2
