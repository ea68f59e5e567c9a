#include "format/qcow2/refcount_layout.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/bytes.h"
#include "base/checked.h"

namespace cofre::qcow2 {

RefcountLayout place_refcounts(std::set<uint64_t> blocks, uint64_t first_cluster, uint64_t per_block,
                               uint32_t cluster_bits) {
  RefcountLayout layout{.cluster_bits = cluster_bits, .first_cluster = first_cluster};
  do {
    layout.blocks.assign(blocks.begin(), blocks.end());
    const uint64_t entries = blocks.empty() ? 1 : *blocks.rbegin() + 1;
    layout.table_clusters = div_ceil(entries * 8, uint64_t{1} << cluster_bits);
    for (uint64_t i = 0; i < layout.clusters(); ++i) blocks.insert((first_cluster + i) / per_block);
  } while (blocks.size() != layout.blocks.size());
  return layout;
}

io::task<void> write_refcount_table(block::Device& file, const RefcountLayout& layout) {
  AlignedBuffer table(layout.table_bytes());
  std::ranges::fill(table.bytes(), std::byte{0});
  for (size_t i = 0; i < layout.blocks.size(); ++i)
    store_be(table.data() + layout.blocks[i] * 8, layout.block_offset(i));
  co_await file.write(layout.table_offset(), table.bytes());
}

}  // namespace cofre::qcow2
