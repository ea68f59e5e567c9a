// Another width for refcounts. New blocks and a new table go past everything that the file holds, where no
// refcount says anything yet: an interruption changes nothing. Table, place and width change in the header's
// first sector, so at once. Then the old table and blocks, still counted, are given up: a crash leaks them.
#include <algorithm>
#include <set>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "format/qcow2/amend_context.h"
#include "format/qcow2/header_update.h"
#include "format/qcow2/refcount_layout.h"

namespace cofre::qcow2 {
namespace {

class RefcountWidth {
 public:
  RefcountWidth(AmendContext context, uint32_t order)
      : context_(context),
        state_(context.state),
        order_(order),
        new_per_block_(state_.cluster_bytes() * 8 >> order) {}

  io::task<void> run() {
    note_old_structure();
    co_await survey();
    plan();
    co_await write_blocks();
    co_await write_refcount_table(*state_.file, layout_);
    co_await state_.file_barrier();
    co_await switch_over();
    co_await give_up_old();
  }

 private:
  void note_old_structure() {
    const uint64_t table = state_.refcounts.table().offset();
    old_.push_back({table, state_.header.refcount_table_clusters});
    for (const uint64_t block : state_.refcounts.table().values())
      if (block != 0) old_.push_back({block, 1});
  }

  // Which clusters are counted, and whether their counts fit.
  io::task<void> survey() {
    const DiskTable& table = state_.refcounts.table();
    const uint64_t old_per_block = state_.header.refcounts_per_block();
    for (uint64_t block = 0; block < table.size(); ++block) {
      context_.step(block, 2 * table.size());
      if (table[block] == 0) continue;
      for (uint64_t cluster = block * old_per_block; cluster < (block + 1) * old_per_block; ++cluster) {
        const uint64_t count = co_await state_.refcounts.get(cluster);
        if (count == 0) continue;
        if (count > max_refcount(order_))
          fail(ErrorKind::kLimit,
               "'{}': refcounts of {} bits do not do: the cluster at offset {} has {} references",
               state_.name, uint64_t{1} << order_, cluster << state_.header.cluster_bits, count);
        blocks_in_use_.insert(cluster / new_per_block_);
        end_in_use_ = cluster + 1;
      }
    }
  }

  // Places the new structure, whose own clusters are counted in it too.
  void plan() {
    const Header& header = state_.header;
    const uint64_t first =
        std::max(end_in_use_, div_ceil(state_.file->length_bytes(), state_.cluster_bytes()));
    layout_ = place_refcounts(std::move(blocks_in_use_), first, new_per_block_, header.cluster_bits);
    if (layout_.table_bytes() > kMaxRefcountTableBytes ||
        first + layout_.clusters() > kHostOffsetLimit >> header.cluster_bits)
      fail(ErrorKind::kLimit, "'{}': the file is too long ({} bytes) for refcounts of {} bits", state_.name,
           state_.file->length_bytes(), uint64_t{1} << order_);
  }

  io::task<void> write_blocks() {
    AlignedBuffer bytes(state_.cluster_bytes());
    const size_t blocks = layout_.blocks.size();
    for (size_t k = 0; k < blocks; ++k) {
      context_.step(blocks + k, 2 * blocks);
      std::ranges::fill(bytes.bytes(), std::byte{0});
      for (uint64_t i = 0; i < new_per_block_; ++i) {
        const uint64_t cluster = layout_.blocks[k] * new_per_block_ + i;
        const uint64_t count = is_own(cluster) ? 1 : co_await state_.refcounts.get(cluster);
        if (count != 0) store_refcount(bytes.data(), i, order_, count);
      }
      co_await state_.file->write(layout_.block_offset(k), bytes.bytes());
    }
  }

  // Whether the new structure lies there.
  bool is_own(uint64_t cluster) const {
    return cluster >= layout_.first_cluster && cluster - layout_.first_cluster < layout_.clusters();
  }

  io::task<void> switch_over() {
    Header changed = state_.header;
    changed.refcount_table_offset = layout_.table_offset();
    changed.refcount_table_clusters = static_cast<uint32_t>(layout_.table_clusters);
    changed.refcount_order = order_;
    try {
      co_await update_header(state_, std::move(changed));
    } catch (...) {
      state_.unusable = true;  // either header may be on disk
      throw;
    }
    state_.unusable = true;  // until what is in memory is what the header names
    for (const ClusterRun& run : old_)
      state_.metadata_map.remove(run.host_offset, run.clusters << state_.header.cluster_bits);
    co_await state_.refcounts.reload(/*tolerant=*/false);
    state_.unusable = false;
  }

  io::task<void> give_up_old() {
    for (const ClusterRun& run : old_) co_await state_.refcounts.adjust(run.host_offset, run.clusters, -1);
    co_await state_.write_back(/*durable=*/true);
  }

  AmendContext context_;
  State& state_;
  uint32_t order_;
  uint64_t new_per_block_;
  std::vector<ClusterRun> old_;
  std::set<uint64_t> blocks_in_use_;  // indices in the new table
  uint64_t end_in_use_ = 0;           // one past the last cluster that is counted
  RefcountLayout layout_;             // of the new structure
};

}  // namespace

io::task<void> change_refcount_width(AmendContext context, uint32_t order) {
  RefcountWidth width(context, order);
  co_await width.run();
}

}  // namespace cofre::qcow2
