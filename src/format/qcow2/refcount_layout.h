// Where a whole new refcount structure goes: a table, then its blocks, side by side past everything that
// counts. Source: qcow2 specification, "Host cluster management".
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "block/device.h"

namespace cofre::qcow2 {

struct RefcountLayout {
  uint32_t cluster_bits = 0;
  uint64_t first_cluster = 0;  // the table's; the blocks follow it
  uint64_t table_clusters = 0;
  std::vector<uint64_t> blocks = {};  // indices in the table, in order

  uint64_t clusters() const noexcept { return table_clusters + blocks.size(); }
  uint64_t table_offset() const noexcept { return first_cluster << cluster_bits; }
  uint64_t table_bytes() const noexcept { return table_clusters << cluster_bits; }
  // Of blocks[i].
  uint64_t block_offset(size_t i) const noexcept {
    return (first_cluster + table_clusters + i) << cluster_bits;
  }
};

// `blocks` are those that clusters in use need; those that the structure's own clusters need are added. A
// block holds the refcounts of `per_block` clusters.
RefcountLayout place_refcounts(std::set<uint64_t> blocks, uint64_t first_cluster, uint64_t per_block,
                               uint32_t cluster_bits);

io::task<void> write_refcount_table(block::Device& file, const RefcountLayout& layout);

}  // namespace cofre::qcow2
