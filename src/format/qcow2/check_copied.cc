// The copied flags: set exactly where the refcount is 1, for then writes go to the cluster itself. Only the
// active tables have them.
#include "format/qcow2/check_context.h"

namespace cofre::qcow2 {
namespace {

class CopiedCheck {
 public:
  explicit CopiedCheck(CheckContext& context)
      : context_(context), state_(context.state), header_(context.state.header), stored_(context) {
    const CheckResult& result = context.result;
    repair_ = context.repair_errors || (context.repair_leaks && result.corruptions == 0 &&
                                        result.leaks == 0 && result.check_errors == 0);
  }

  io::task<void> run() {
    co_await check_l1();
    if (!suspect()) co_return;
    AlignedBuffer table(context_.cluster_bytes());
    uint64_t done = 0;
    for (const TableUse& use : context_.l2_tables) {
      context_.step(done++, context_.l2_tables.size());
      if (use.active > 0) co_await check_table(use, table.bytes());
    }
  }

 private:
  // Where every count agrees with its refcount, the walk has seen all that there is to see.
  bool suspect() const {
    const CheckResult& result = context_.result;
    return context_.flags_suspect || context_.must_rebuild || context_.incomplete ||
           result.corruptions != 0 || result.leaks != 0 || result.check_errors != 0 ||
           result.corruptions_fixed != 0;
  }

  // Of a cluster that some entry names; nothing if it cannot be told.
  io::task<std::optional<uint64_t>> refcount(uint64_t offset) {
    const uint64_t cluster = context_.cluster_of(offset);
    if (context_.bad_blocks.contains(cluster / header_.refcounts_per_block())) co_return std::nullopt;
    const uint64_t counted = context_.counts.of(cluster);
    if (counted != 0) co_return counted;
    co_return co_await stored_.of(cluster);
  }

  // Whether the flag has to be turned over.
  bool wrong(uint64_t word, std::optional<uint64_t> refcount) const {
    return refcount && (*refcount == 1) != ((word & kCopiedFlag) != 0);
  }

  void found(uint64_t times, bool repaired, const std::string& place, uint64_t refcount) {
    const std::string finding =
        fmt::format("{}: the copied flag does not agree with refcount {}", place, refcount);
    if (!repaired) return context_.corruption(times, finding + context_.would("sets it right"));
    ++context_.result.corruptions_fixed;
    context_.say(finding + "; repaired");
  }

  // Nothing has a meaning for them, and a lookup refuses the entry. The walk counted it as corrupt.
  void clear_reserved(uint64_t i) {
    const uint64_t entry = state_.l1[i];
    if ((entry & kL1ReservedMask) == 0 || !context_.repair_errors || !context_.l1_alone) return;
    state_.l1.set(i, entry & ~kL1ReservedMask);
    --context_.result.corruptions;
    ++context_.result.corruptions_fixed;
    context_.say(fmt::format("L1 entry {}: reserved bits {:#x} cleared", i, entry & kL1ReservedMask));
  }

  io::task<void> check_l1() {
    for (uint64_t i = 0; i < state_.l1.size(); ++i) {
      const uint64_t entry = state_.l1[i];
      if ((entry & kOffsetMask) == 0) continue;
      clear_reserved(i);
      const std::optional<uint64_t> count = co_await refcount(entry & kOffsetMask);
      if (!wrong(entry, count)) continue;
      const bool repaired = repair_ && context_.l1_alone;
      found(1, repaired, fmt::format("L1 entry {}", i), *count);
      if (repaired) state_.l1.set(i, state_.l1[i] ^ kCopiedFlag);
    }
    co_await state_.l1.write_dirty(*state_.file);
  }

  io::task<void> check_table(const TableUse& use, Bytes table) {
    std::string trouble;
    try {
      co_await context_.read(use.offset, table);
    } catch (const Error& error) {
      trouble = error.what();  // the walk has counted it
    }
    if (!trouble.empty()) co_return;
    bool changed = false;
    for (uint64_t i = 0; i < header_.l2_entries_per_table(); ++i) {
      L2Entry entry = load_entry(table.data(), i, header_.extended_l2());
      if (!has_host_cluster(entry, header_)) continue;
      const std::optional<uint64_t> count =
          header_.external_data() ? 1 : co_await refcount(entry.host_offset());
      if (!wrong(entry.word, count)) continue;
      const bool repaired = repair_ && use.alone;
      found(use.active, repaired, fmt::format("entry {} of the L2 table at offset {}", i, use.offset),
            *count);
      if (!repaired) continue;
      entry.word ^= kCopiedFlag;
      store_entry(table.data(), i, header_.extended_l2(), entry);
      changed = true;
    }
    if (changed) co_await state_.file->write(use.offset, table);
  }

  CheckContext& context_;
  State& state_;
  const Header& header_;
  StoredRefcounts stored_;
  bool repair_;
};

}  // namespace

io::task<void> check_copied_flags(CheckContext& context) {
  co_await CopiedCheck(context).run();
}

}  // namespace cofre::qcow2
