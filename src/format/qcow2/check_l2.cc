#include "format/qcow2/check_l2.h"

#include <utility>

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kReservedMask = 0x3f000000000001fe;
constexpr const char* kLost =
    "; this cannot be repaired: where the data lies is lost, restore it from a copy";

}  // namespace

L2Check::L2Check(CheckContext& context)
    : context_(context), header_(context.state.header), file_clusters_(context.file_clusters()) {}

bool L2Check::table(const TableUse& use, Bytes table) {
  use_ = use;
  table_ = table;
  next_ = 0;
  changed_ = false;
  const uint64_t entries = header_.l2_entries_per_table();
  for (index_ = 0; index_ < entries; ++index_) {
    if (const uint64_t run = plain_run(); run > 0) {
      plain(run);
      index_ += run - 1;
      continue;
    }
    L2Entry entry = load_entry(table.data(), index_, header_.extended_l2());
    if (entry == L2Entry{}) continue;
    if (!entry.compressed() && (entry.word & kReservedMask) != 0) {
      const uint64_t word = std::exchange(entry.word, entry.word & ~kReservedMask);
      mendable(fmt::format("reserved bits are set: {:#018x}", word), "clears them", entry);
    }
    if (entry.compressed()) {
      compressed(entry);
    } else if (has_host_cluster(entry, header_)) {
      allocated(entry);
    } else {
      unallocated(entry);
    }
  }
  return changed_;
}

// How many entries from the one at hand on are faultless as they stand: allocated clusters that lie one
// behind the other in the image file, all with the copied flag or all without. That is what most tables
// consist of.
uint64_t L2Check::plain_run() {
  if (header_.extended_l2() || header_.external_data()) return 0;
  const std::byte* const at = table_.data() + index_ * 8;
  const uint64_t first = load_be<uint64_t>(at);
  const uint64_t offset = first & ~kCopiedFlag;
  if (offset == 0 || (offset & ~(kOffsetMask & ~(context_.cluster_bytes() - 1))) != 0) return 0;
  const uint64_t most = header_.l2_entries_per_table() - index_;
  uint64_t run = 1;
  while (run < most && load_be<uint64_t>(at + run * 8) == first + run * context_.cluster_bytes()) ++run;
  return context_.cluster_of(offset) + run <= file_clusters_ ? run : 0;
}

void L2Check::plain(uint64_t count) {
  const uint64_t word = load_be<uint64_t>(table_.data() + index_ * 8);
  const uint64_t offset = word & ~kCopiedFlag;
  context_.result.allocated_clusters += count * use_.active;
  if (next_ != 0 && offset != next_) context_.result.fragmented_clusters += use_.active;
  next_ = offset + (count << header_.cluster_bits);
  context_.counts.add_run(context_.cluster_of(offset), count, use_.uses(), flag_of({word, 0}));
}

ReferenceCounts::Flag L2Check::flag_of(L2Entry entry) const noexcept {
  using Flag = ReferenceCounts::Flag;
  if (use_.active == 0) return Flag::kNone;
  return entry.copied() ? Flag::kCopied : Flag::kPlain;
}

void L2Check::corruption(const std::string& finding) {
  context_.corruption(use_.uses(),
                      fmt::format("entry {} of the L2 table at offset {}: {}", index_, use_.offset, finding));
}

void L2Check::mendable(const std::string& finding, const std::string& how, L2Entry mended) {
  if (!may_repair()) return corruption(finding + context_.would(how));
  context_.say(
      fmt::format("entry {} of the L2 table at offset {}: {}; repaired", index_, use_.offset, finding));
  replace(mended);
}

void L2Check::replace(L2Entry entry) {
  store_entry(table_.data(), index_, header_.extended_l2(), entry);
  changed_ = true;
  ++context_.result.corruptions_fixed;
}

void L2Check::reference(uint64_t offset, uint64_t length, ReferenceCounts::Flag flag) {
  if (!context_.in_file(offset, length))
    return corruption(
        fmt::format("{} bytes at host offset {} lie past the file's end{}", length, offset, kLost));
  const uint64_t first = context_.cluster_of(offset);
  context_.counts.add_run(first, context_.cluster_of(offset + length - 1) - first + 1, use_.uses(), flag);
}

void L2Check::compressed(L2Entry entry) {
  if (header_.external_data())
    return corruption(std::string("a compressed cluster in an image with an external data file") + kLost);
  if (entry.bitmap != 0) {
    const uint64_t bitmap = std::exchange(entry.bitmap, 0);
    mendable(fmt::format("a compressed cluster with a subcluster bitmap ({:#018x})", bitmap), "clears it",
             entry);
  }
  const CompressedPlace place = compressed_place(entry.word & ~kCopiedFlag, header_.cluster_bits);
  if (entry.copied()) {
    entry.word &= ~kCopiedFlag;
    mendable("the copied flag is set for a compressed cluster", "clears it", entry);
  }
  reference(place.offset, place.length_bytes, ReferenceCounts::Flag::kNone);
  context_.result.allocated_clusters += use_.active;
  context_.result.compressed_clusters += use_.active;
  context_.result.fragmented_clusters += use_.active;  // they share sectors, so each is read on its own
}

bool L2Check::holds_data(L2Entry entry) const noexcept {
  if (header_.extended_l2()) return (entry.bitmap & kAllAllocated) != 0;
  return (entry.word & kZeroFlag) == 0 || header_.version < 3;
}

void L2Check::allocated(L2Entry entry) {
  const uint64_t offset = entry.host_offset();
  if ((entry.bitmap >> 32 & entry.bitmap & kAllAllocated) != 0)
    corruption(
        fmt::format("subclusters are both allocated and zero (bitmap {:#018x}); this cannot be repaired: "
                    "which of both is "
                    "right cannot be told, write to them or discard them",
                    entry.bitmap));
  if (!is_aligned(offset, context_.cluster_bytes())) {
    if (!holds_data(entry) && may_repair())
      return mendable(fmt::format("host offset {} is not a cluster's start, and holds no data", offset), "",
                      header_.extended_l2() ? L2Entry{0, kAllZero} : L2Entry{kZeroFlag, 0});
    corruption(fmt::format(
        "host offset {} is not a cluster's start{}", offset,
        holds_data(entry) ? kLost : context_.would("lets it read as zero, for it holds no data")));
  }
  context_.result.allocated_clusters += use_.active;
  if (next_ != 0 && offset != next_) context_.result.fragmented_clusters += use_.active;
  next_ = offset + context_.cluster_bytes();
  if (header_.external_data()) {
    if (!entry.copied() && use_.active > 0) context_.flags_suspect = true;
    return;
  }
  reference(offset, context_.cluster_bytes(), flag_of(entry));
}

void L2Check::unallocated(L2Entry entry) {
  const uint64_t allocated = entry.bitmap & kAllAllocated;
  if (allocated == 0) return;
  mendable(fmt::format("subclusters are allocated but there is no cluster (bitmap {:#018x})", entry.bitmap),
           "lets them read as zero", {entry.word, (entry.bitmap & ~kAllAllocated) | allocated << 32});
}

}  // namespace cofre::qcow2
