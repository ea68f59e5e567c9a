// Refcounts on disk against the references counted: too high leaks, too low endangers data.
#include <array>
#include <cstring>
#include <functional>

#include "base/checked.h"
#include "format/qcow2/check_context.h"
#include "format/qcow2/read_ahead.h"

namespace cofre::qcow2 {
namespace {

class Comparison {
 public:
  explicit Comparison(CheckContext& context)
      : context_(context),
        header_(context.state.header),
        order_(header_.refcount_order),
        per_block_(header_.refcounts_per_block()),
        end_(std::max(context.file_clusters(), context.counts.end())),
        block_(context.cluster_bytes()) {
    for (uint64_t i = 0; i < ReferenceCounts::kPerWord; ++i) store_refcount(ones_.data(), i, order_, 1);
  }

  io::task<void> run() {
    note_blocks();
    for (const uint64_t block : blocks_)
      if (!has_block(block)) context_.must_rebuild = true;
    const bool in_place = !context_.must_rebuild;
    raise_ = context_.repair_errors && in_place;
    lower_ = context_.repair_leaks && in_place && !context_.incomplete && context_.result.check_errors == 0;
    if (raise_ && co_await pass(&Comparison::raise_counts)) co_await context_.state.file->flush();
    if (lower_ && co_await pass(&Comparison::lower_counts)) co_await context_.state.file->flush();
    last_ = 0;
    co_await report();
    context_.result.image_end_offset = last_ << header_.cluster_bits;
    if (context_.repair_leaks && !lower_ && !context_.must_rebuild && leaks_found_)
      context_.say("leaked clusters are left alone: tables that could not be followed may still need them");
  }

 private:
  using Step = bool (Comparison::*)(uint64_t first_cluster, uint64_t count);

  bool will_rebuild() const { return context_.must_rebuild && context_.repair_errors; }

  bool has_block(uint64_t block) const {
    const DiskTable& table = context_.state.refcounts.table();
    return block < table.size() && table[block] != 0;
  }

  // The blocks that matter: those there are, and those of clusters that are referenced.
  void note_blocks() {
    const DiskTable& table = context_.state.refcounts.table();
    for (uint64_t i = 0; i < table.size() && i * per_block_ < end_; ++i)
      if (table[i] != 0) blocks_.push_back(i);
    for (const uint64_t first : context_.counts.pieces()) {
      const uint64_t last = std::min(first + ReferenceCounts::kPerPiece, context_.counts.end());
      for (uint64_t at = first; at < last; at += ReferenceCounts::kPerWord) {
        const uint64_t block = at / per_block_;
        if (!has_block(block) && context_.counts.word(at).referenced != 0) blocks_.push_back(block);
      }
    }
    std::ranges::sort(blocks_);
    blocks_.erase(std::unique(blocks_.begin(), blocks_.end()), blocks_.end());
  }

  uint64_t count_of(uint64_t block) const { return std::min(per_block_, end_ - block * per_block_); }

  // Applies `step` to every block, and writes those that it changes. Whether any was.
  io::task<bool> pass(Step step) {
    bool changed = false;
    uint64_t done = 0;
    for (const uint64_t block : blocks_) {
      context_.step(done++, blocks_.size());
      if (!co_await load(block) || !(this->*step)(block * per_block_, count_of(block))) continue;
      co_await context_.state.file->write(offset_of(block), block_.bytes());
      changed = true;
    }
    co_return changed;
  }

  bool on_disk(uint64_t block) const { return has_block(block) && !context_.bad_blocks.contains(block); }

  // What is left: every block once, those that are on disk read ahead.
  io::task<void> report() {
    std::vector<uint64_t> readable;
    std::vector<uint64_t> others;
    for (const uint64_t block : blocks_) (on_disk(block) ? readable : others).push_back(block);
    co_await read_ahead(
        {.file = *context_.state.file,
         .item_bytes = context_.cluster_bytes(),
         .count = readable.size(),
         .lane = context_.options.reader},
        [&](size_t i) { return offset_of(readable[i]); },
        [&](size_t i, Bytes bytes, const std::string& trouble) {
          context_.step(i, readable.size());
          return report_block(readable[i], bytes, trouble);
        });
    std::ranges::fill(block_.bytes(), std::byte{0});
    for (const uint64_t block : others) {
      if (has_block(block)) {
        unknown(block);
      } else {
        report_counts(block, block_.bytes());
      }
    }
  }

  io::task<void> report_block(uint64_t block, ConstBytes bytes, const std::string& trouble) {
    if (trouble.empty()) {
      report_counts(block, bytes);
    } else {
      note_unreadable(block, trouble);
      unknown(block);
    }
    co_return;
  }

  void unknown(uint64_t block) {
    context_.unreadable(count_of(block), fmt::format("the refcounts of {} clusters from {} on cannot be read",
                                                     count_of(block), block * per_block_));
  }

  uint64_t offset_of(uint64_t block) const { return context_.state.refcounts.table()[block]; }

  // False if the block cannot be used.
  io::task<bool> load(uint64_t block) {
    if (context_.bad_blocks.contains(block)) co_return false;
    std::ranges::fill(block_.bytes(), std::byte{0});
    if (!has_block(block)) co_return true;
    std::string trouble;
    try {
      co_await context_.read(offset_of(block), block_.bytes());
      co_return true;
    } catch (const Error& error) {
      trouble = error.what();
    }
    note_unreadable(block, trouble);
    co_return false;
  }

  void note_unreadable(uint64_t block, const std::string& trouble) {
    context_.bad_blocks.insert(block);
    context_.must_rebuild = true;
    context_.say(fmt::format("refcount block {} cannot be read: {}", block, trouble));
  }

  uint64_t wanted(uint64_t cluster) const {
    return std::min(context_.counts.of(cluster), max_refcount(order_));
  }

  template <typename F>
  void for_each(uint64_t first, uint64_t count, F&& visit) {
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t stored = load_refcount(block_.data(), i, order_);
      if (stored != 0 || context_.counts.of(first + i) != 0) visit(first + i, i, stored);
    }
  }

  bool raise_counts(uint64_t first, uint64_t count) {
    bool changed = false;
    for_each(first, count, [&](uint64_t cluster, uint64_t i, uint64_t stored) {
      if (stored >= wanted(cluster)) return;
      repaired(cluster, i, stored);
      ++context_.result.corruptions_fixed;
      changed = true;
    });
    return changed;
  }

  bool lower_counts(uint64_t first, uint64_t count) {
    bool changed = false;
    for_each(first, count, [&](uint64_t cluster, uint64_t i, uint64_t stored) {
      if (stored <= wanted(cluster)) return;
      repaired(cluster, i, stored);
      ++context_.result.leaks_fixed;
      changed = true;
    });
    return changed;
  }

  void repaired(uint64_t cluster, uint64_t index, uint64_t stored) {
    context_.say(fmt::format("cluster {}: refcount {} repaired to {}", cluster, stored, wanted(cluster)));
    store_refcount(block_.data(), index, order_, wanted(cluster));
  }

  // 64 refcounts at a time: nearly always all are 1 or all are 0, on disk and in the counts.
  void report_counts(uint64_t block, ConstBytes bytes) {
    const uint64_t first = block * per_block_;
    for (uint64_t i = 0; i < count_of(block); i += ReferenceCounts::kPerWord) {
      const ReferenceCounts::Word word = context_.counts.word(first + i);
      if (word.flags_at_odds() != 0) context_.flags_suspect = true;
      const std::byte* const stored = bytes.data() + (i << order_) / 8;
      if (word.referenced == ~uint64_t{0} && word.several == 0 &&
          std::memcmp(stored, ones_.data(), word_bytes()) == 0) {
        last_ = first + i + ReferenceCounts::kPerWord;
      } else if (word.referenced != 0 || std::memcmp(stored, zeros_.data(), word_bytes()) != 0) {
        report_word(first + i, stored);
      }
    }
  }

  size_t word_bytes() const { return (ReferenceCounts::kPerWord << order_) / 8; }

  void report_word(uint64_t first, const std::byte* stored) {
    for (uint64_t i = 0; i < std::min(ReferenceCounts::kPerWord, end_ - first); ++i) {
      const uint64_t refcount = load_refcount(stored, i, order_);
      const uint64_t references = context_.counts.of(first + i);
      if (refcount != 0 || references != 0) report_count(first + i, refcount, references);
    }
  }

  void report_count(uint64_t cluster, uint64_t stored, uint64_t references) {
    last_ = std::max(last_, cluster + 1);
    if (references > max_refcount(order_))
      context_.corruption(
          references - max_refcount(order_),
          fmt::format("cluster {} has {} references, more than {}-bit refcounts can tell; this "
                      "cannot be repaired: give it wider ones with amend -o refcount_bits",
                      cluster, references, header_.refcount_bits()));
    if (stored < wanted(cluster)) {
      context_.corruption(1, fmt::format("cluster {} (offset {}): refcount {}, references {}{}", cluster,
                                         cluster << header_.cluster_bits, stored, references,
                                         context_.would(fmt::format("sets it to {}", wanted(cluster)))));
    } else if (stored > wanted(cluster)) {
      ++context_.result.leaks;
      leaks_found_ = true;
      context_.say(
          fmt::format("leaked cluster {} (offset {}): refcount {}, references {}{}", cluster,
                      cluster << header_.cluster_bits, stored, references,
                      context_.repair_leaks ? "" : fmt::format("; -r leaks sets it to {}", wanted(cluster))));
    }
    if (references != 0 && references != stored && !will_rebuild()) context_.counts.set(cluster, stored);
  }

  CheckContext& context_;
  const Header& header_;
  uint32_t order_;
  uint64_t per_block_;
  uint64_t end_;  // clusters looked at
  AlignedBuffer block_;
  std::array<std::byte, ReferenceCounts::kPerWord * 8> ones_ = {};  // 64 refcounts of 1, as on disk
  std::array<std::byte, ReferenceCounts::kPerWord * 8> zeros_ = {};
  std::vector<uint64_t> blocks_;
  bool raise_ = false;
  bool lower_ = false;
  bool leaks_found_ = false;
  uint64_t last_ = 0;  // one past the last cluster in use
};

}  // namespace

io::task<void> compare_refcounts(CheckContext& context) {
  co_await Comparison(context).run();
}

io::task<std::optional<uint64_t>> StoredRefcounts::of(uint64_t cluster) {
  const Header& header = context_.state.header;
  const DiskTable& table = context_.state.refcounts.table();
  const uint64_t block = cluster / header.refcounts_per_block();
  if (block >= table.size() || table[block] == 0) co_return 0;
  if (context_.bad_blocks.contains(block)) co_return std::nullopt;
  const uint64_t bit = (cluster % header.refcounts_per_block()) << header.refcount_order;
  const uint64_t offset = table[block] + align_down<uint64_t>(bit / 8, kPieceBytes);
  if (offset != piece_offset_) {
    if (!piece_) piece_ = AlignedBuffer(kPieceBytes);
    co_await context_.read(offset, piece_.bytes());
    piece_offset_ = offset;
  }
  co_return load_refcount(piece_.data(), bit % (kPieceBytes * 8) >> header.refcount_order,
                          header.refcount_order);
}

}  // namespace cofre::qcow2
