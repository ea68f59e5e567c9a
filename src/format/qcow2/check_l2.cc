#include "format/qcow2/check_l2.h"

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kReservedMask = 0x3f000000000001fe;

}  // namespace

L2Check::L2Check(CheckContext& context) : context_(context), header_(context.state.header) {}

bool L2Check::table(const TableUse& use, Bytes table) {
  use_ = use;
  table_ = table;
  next_ = 0;
  changed_ = false;
  const uint64_t entries = header_.l2_entries_per_table();
  for (index_ = 0; index_ < entries; ++index_) {
    const L2Entry entry = load_entry(table.data(), index_, header_.extended_l2());
    if (entry == L2Entry{}) continue;
    if (!entry.compressed() && (entry.word & kReservedMask) != 0)
      corruption(fmt::format("reserved bits are set: {:#018x}", entry.word));
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

void L2Check::corruption(const std::string& finding) {
  context_.corruption(use_.uses(),
                      fmt::format("entry {} of the L2 table at offset {}: {}", index_, use_.offset, finding));
}

void L2Check::replace(L2Entry entry) {
  store_entry(table_.data(), index_, header_.extended_l2(), entry);
  changed_ = true;
  ++context_.result.corruptions_fixed;
}

void L2Check::reference(uint64_t offset, uint64_t length) {
  if (!context_.in_file(offset, length))
    return corruption(fmt::format("{} bytes at host offset {} lie past the file's end", length, offset));
  const uint64_t last = context_.cluster_of(offset + length - 1);
  for (uint64_t cluster = context_.cluster_of(offset); cluster <= last; ++cluster)
    context_.counts.add(cluster, use_.uses());
}

void L2Check::compressed(L2Entry entry) {
  if (header_.external_data())
    return corruption("a compressed cluster in an image with an external data file");
  if (entry.bitmap != 0)
    return corruption(fmt::format("a compressed cluster with a subcluster bitmap ({:#018x})", entry.bitmap));
  const CompressedPlace place = compressed_place(entry.word & ~kCopiedFlag, header_.cluster_bits);
  if (entry.copied()) {
    const std::string finding = "the copied flag is set for a compressed cluster";
    if (may_repair()) {
      context_.say(
          fmt::format("entry {} of the L2 table at offset {}: {}; cleared", index_, use_.offset, finding));
      replace({entry.word & ~kCopiedFlag, 0});
    } else {
      corruption(finding);
    }
  }
  reference(place.offset, place.length_bytes);
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
    corruption(fmt::format("subclusters are both allocated and zero (bitmap {:#018x})", entry.bitmap));
  if (!is_aligned(offset, context_.cluster_bytes())) {
    const std::string finding = fmt::format("host offset {} is not a cluster's start", offset);
    if (!holds_data(entry) && may_repair()) {
      context_.say(
          fmt::format("entry {} of the L2 table at offset {}: {}; it held no data and now reads as zero",
                      index_, use_.offset, finding));
      return replace(header_.extended_l2() ? L2Entry{0, kAllZero} : L2Entry{kZeroFlag, 0});
    }
    corruption(finding);
  }
  context_.result.allocated_clusters += use_.active;
  if (next_ != 0 && offset != next_) context_.result.fragmented_clusters += use_.active;
  next_ = offset + context_.cluster_bytes();
  if (!header_.external_data()) reference(offset, context_.cluster_bytes());
}

void L2Check::unallocated(L2Entry entry) {
  if ((entry.bitmap & kAllAllocated) != 0)
    corruption(
        fmt::format("subclusters are allocated but there is no cluster (bitmap {:#018x})", entry.bitmap));
}

}  // namespace cofre::qcow2
