// Map: where do these guest bytes live? A pure lookup when the slice of the L2 table is in memory.
// Source: qcow2 specification, "Cluster mapping".
#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

uint64_t State::slice_offset(uint64_t l1_entry, uint64_t guest) const noexcept {
  const uint64_t index = guest % bytes_per_l2_table >> header.cluster_bits;
  return (l1_entry & kOffsetMask) +
         align_down<uint64_t>(index * header.l2_entry_bytes(), l2_cache.slice_bytes());
}

uint64_t State::index_in_slice(uint64_t guest) const noexcept {
  const uint64_t per_slice = l2_cache.slice_bytes() / header.l2_entry_bytes();
  return (guest >> header.cluster_bits) % per_slice;
}

uint64_t State::checked_l2_offset(uint64_t l1_entry, uint64_t guest) const {
  const uint64_t offset = l1_entry & kOffsetMask;
  if (!is_aligned(offset, cluster_bytes()) || offset >= file->length_bytes() ||
      (l1_entry & kL1ReservedMask) != 0)
    fail_corrupt(fmt::format(
        "L1 entry {} (guest offset {}) names an L2 table at offset {}, which is not a cluster of the file",
        l1_index(guest), guest, offset));
  return offset;
}

const Slice* State::cached_slice(uint64_t l1_entry, uint64_t guest) {
  return l2_cache.find(slice_offset(l1_entry, guest));
}

// The part of [guest, guest + length) that no L2 table covers.
uint64_t State::unmapped_length(uint64_t guest, uint64_t length) const noexcept {
  uint64_t end = guest;
  for (uint64_t index = l1_index(guest);
       end < guest + length && index < l1.size() && (l1[index] & kOffsetMask) == 0; ++index)
    end = (index + 1) * bytes_per_l2_table;
  return std::min(end - guest, length);
}

void State::check_entry(L2Entry entry, uint64_t guest) const {
  if (entry.compressed()) {
    if (header.external_data())
      fail_corrupt(fmt::format("guest offset {} is compressed though an external data file is used", guest));
    return;
  }
  const bool both = (entry.bitmap >> 32 & entry.bitmap & kAllAllocated) != 0;
  if (both || ((entry.bitmap & kAllAllocated) != 0 && !has_host_cluster(entry, header)))
    fail_corrupt(fmt::format("the L2 entry of guest offset {} is invalid (0x{:016x} 0x{:016x})", guest,
                             entry.word, entry.bitmap));
  if (!has_host_cluster(entry, header)) return;
  const uint64_t cluster = entry.host_offset();
  if (!is_aligned(cluster, cluster_bytes()))
    fail_corrupt(
        fmt::format("the L2 entry of guest offset {} names host offset {}, which is not a cluster's start",
                    guest, cluster));
  if (header.external_data() && cluster != cluster_start(guest))
    fail_corrupt(fmt::format("guest offset {} lies at offset {} of the external data file, not at its own",
                             guest, cluster));
}

Run State::run_in_slice(const Slice& slice, uint64_t guest, uint64_t length) const {
  const bool extended = header.extended_l2();
  const uint64_t unit = header.subcluster_bytes();
  const uint64_t per_cluster = header.subclusters_per_cluster();
  const uint64_t entries = l2_cache.slice_bytes() / header.l2_entry_bytes();
  uint64_t index = index_in_slice(guest);
  auto subcluster = static_cast<unsigned>(guest % cluster_bytes() / unit);

  L2Entry entry = load_entry(slice.bytes.data(), index, extended);
  Run run;
  run.storage = storage_of(entry, subcluster, header);
  run.copied = entry.copied();
  check_entry(entry, guest);
  run.host = HostOffset{entry.host_offset() + guest % cluster_bytes()};
  if (run.storage == Storage::kCompressed) {
    run.compressed_word = entry.word;
    run.length_bytes = std::min(length, cluster_end(guest) - guest);
    return run;
  }
  run.has_host = has_host_cluster(entry, header);
  uint64_t end = align_down(guest, unit) + unit;
  while (end < guest + length) {
    if (++subcluster == per_cluster) {
      subcluster = 0;
      if (++index == entries) break;
      const L2Entry next = load_entry(slice.bytes.data(), index, extended);
      if (has_host_cluster(next, header) != run.has_host) break;
      if (run.has_host &&
          (next.host_offset() != run.host.bytes + (end - guest) || next.copied() != run.copied))
        break;
      entry = next;
    }
    if (storage_of(entry, subcluster, header) != run.storage) break;
    end += unit;
  }
  run.length_bytes = std::min(length, end - guest);
  if (run.storage == Storage::kNormal && !header.external_data() &&
      run.host.bytes + run.length_bytes > align_up(file->length_bytes(), cluster_bytes()))
    fail_corrupt(fmt::format(
        "guest offset {} lies at host offset {}, past the end of the file at {} (is it truncated?)", guest,
        run.host.bytes, file->length_bytes()));
  return run;
}

std::optional<Run> State::try_lookup(uint64_t guest, uint64_t length) {
  const uint64_t l1_entry = l1[l1_index(guest)];
  if ((l1_entry & kOffsetMask) == 0) {
    Run run;
    run.length_bytes = unmapped_length(guest, length);
    return run;
  }
  checked_l2_offset(l1_entry, guest);
  const Slice* slice = cached_slice(l1_entry, guest);
  if (slice == nullptr) return std::nullopt;
  return run_in_slice(*slice, guest, length);
}

io::task<Run> State::lookup(uint64_t guest, uint64_t length) {
  while (true) {
    if (const std::optional<Run> run = try_lookup(guest, length)) co_return *run;
    co_await l2_cache.load(slice_offset(l1[l1_index(guest)], guest));
  }
}

bool State::reads_zero(const Run& run) const noexcept {
  return run.storage == Storage::kZeroPlain || run.storage == Storage::kZeroAllocated ||
         (run.storage == Storage::kUnallocated && backing == nullptr);
}

}  // namespace cofre::qcow2
