// A new refcount table and new blocks, for an image whose own are damaged. They are written past everything
// that the file holds, so an interruption changes nothing; the header names them last.
#include <array>

#include "base/checked.h"
#include "format/qcow2/check_context.h"
#include "format/qcow2/refcount_layout.h"

namespace cofre::qcow2 {
namespace {

class Rebuild {
 public:
  explicit Rebuild(CheckContext& context)
      : context_(context),
        state_(context.state),
        header_(context.state.header),
        per_block_(header_.refcounts_per_block()) {}

  io::task<void> run() {
    for (const uint64_t cluster : context_.structure_clusters)
      context_.counts.set(cluster, context_.counts.of(cluster) - 1);
    if (context_.incomplete) co_await keep_stored();
    plan();
    co_await write_blocks();
    co_await write_refcount_table(*state_.file, layout_);
    co_await state_.file->flush();
    co_await switch_over();
  }

 private:
  uint64_t cluster_bytes() const { return context_.cluster_bytes(); }

  // Not all references are known: what was taken stays taken, where the old blocks can tell.
  io::task<void> keep_stored() {
    const DiskTable& table = state_.refcounts.table();
    StoredRefcounts stored(context_);
    for (uint64_t block = 0; block < table.size(); ++block) {
      if (table[block] == 0 || context_.bad_blocks.contains(block)) continue;
      const uint64_t end = std::min((block + 1) * per_block_, context_.file_clusters());
      for (uint64_t cluster = block * per_block_; cluster < end; ++cluster) {
        const uint64_t refcount = (co_await stored.of(cluster)).value_or(0);
        if (refcount > context_.counts.of(cluster)) context_.counts.set(cluster, refcount);
      }
    }
  }

  // Places the new structure, whose own clusters need refcounts too.
  void plan() {
    const uint64_t first = std::max(context_.file_clusters(), context_.counts.end());
    layout_ = place_refcounts(blocks_in_use(), first, per_block_, header_.cluster_bits);
    if (layout_.table_bytes() > kMaxRefcountTableBytes || first >= kHostOffsetLimit >> header_.cluster_bits)
      fail(ErrorKind::kLimit,
           "'{}': the file is too long ({} bytes) for a new refcount table; convert the image to a new one",
           state_.name, state_.file->length_bytes());
    context_.counts.add_run(first, layout_.clusters(), 1);
  }

  std::set<uint64_t> blocks_in_use() const {
    std::set<uint64_t> blocks;
    for (const uint64_t piece : context_.counts.pieces())
      for (uint64_t cluster = piece; cluster < piece + ReferenceCounts::kPerPiece; ++cluster)
        if (context_.counts.of(cluster) != 0) blocks.insert(cluster / per_block_);
    return blocks;
  }

  io::task<void> write_blocks() {
    AlignedBuffer block(cluster_bytes());
    for (size_t i = 0; i < layout_.blocks.size(); ++i) {
      context_.step(i, layout_.blocks.size());
      std::ranges::fill(block.bytes(), std::byte{0});
      const uint64_t first = layout_.blocks[i] * per_block_;
      for (uint64_t k = 0; k < per_block_; ++k) {
        const uint64_t references =
            std::min(context_.counts.of(first + k), max_refcount(header_.refcount_order));
        if (references != 0) store_refcount(block.data(), k, header_.refcount_order, references);
      }
      co_await state_.file->write(layout_.block_offset(i), block.bytes());
    }
  }

  io::task<void> switch_over() {
    std::array<std::byte, 12> fields;  // offsets 48 and 56 of the header: one sector, one write
    store_be(fields.data(), layout_.table_offset());
    store_be(fields.data() + 8, static_cast<uint32_t>(layout_.table_clusters));
    co_await state_.write_header_fields(48, fields);
    co_await state_.file->flush();
    state_.header.refcount_table_offset = layout_.table_offset();
    state_.header.refcount_table_clusters = static_cast<uint32_t>(layout_.table_clusters);
  }

  CheckContext& context_;
  State& state_;
  const Header& header_;
  uint64_t per_block_;
  RefcountLayout layout_;  // of the new structure
};

}  // namespace

io::task<void> rebuild_refcounts(CheckContext& context) {
  context.say("the refcount structure is damaged: a new one is built");
  co_await Rebuild(context).run();
}

}  // namespace cofre::qcow2
