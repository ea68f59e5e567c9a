// Zeroing and discarding: changes of the mapping, without moving bytes where whole (sub)clusters allow it.
#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

constexpr size_t kZeroBytes = 256 * kKiB;
alignas(4096) constinit const std::byte kZeros[kZeroBytes] = {};

// Writes zero bytes through the normal path: for edges, and where the format has no zero flag.
io::task<void> write_zero_bytes(State& state, io::Reactor& lane, uint64_t guest, uint64_t length) {
  while (length > 0) {
    const uint64_t piece = std::min<uint64_t>(length, kZeroBytes);
    co_await state.write_range(lane, guest, ConstBytes(kZeros, piece));
    guest += piece;
    length -= piece;
  }
}

// The same, but leaves alone what reads as zero by the tables.
io::task<void> zero_stored_bytes(State& state, io::Reactor& lane, uint64_t guest, uint64_t length) {
  while (length > 0) {
    const Run run = co_await state.lookup(guest, length);
    if (!state.reads_zero(run)) co_await write_zero_bytes(state, lane, guest, run.length_bytes);
    guest += run.length_bytes;
    length -= run.length_bytes;
  }
}

// The subclusters of one cluster that [guest, end) covers.
uint64_t covered_mask(const State& state, uint64_t cluster, uint64_t guest, uint64_t end) {
  const uint64_t unit = state.header.subcluster_bytes();
  const uint64_t from = (std::max(guest, cluster) - cluster) / unit;
  const uint64_t to = (std::min(end, cluster + state.cluster_bytes()) - cluster) / unit;
  return subcluster_mask(static_cast<unsigned>(from), static_cast<unsigned>(to - from));
}

// The entry that makes `mask` of `old` read as zero. `release`: a cluster that is all zero gives up its host
// cluster.
L2Entry zeroed_entry(const State& state, L2Entry old, uint64_t mask, bool release) {
  if (!state.header.extended_l2()) {
    if (old.compressed() || release) return {kZeroFlag, 0};
    return {old.word | kZeroFlag, 0};
  }
  if (mask == kAllAllocated && (old.compressed() || release)) return {0, kAllZero};
  return {old.word, (old.bitmap & ~mask) | mask << 32};
}

// Whether each of the subclusters has the zero flag.
bool has_zero_flags(const State& state, L2Entry entry, uint64_t mask) {
  if (entry.compressed()) return false;
  if (!state.header.extended_l2()) return (entry.word & kZeroFlag) != 0;
  return (entry.bitmap >> 32 & mask) == mask;
}

// Whole clusters from `cluster` on that no table maps and no backing file fills: they read as zero as it is.
io::task<uint64_t> skippable_bytes(State& state, uint64_t cluster, uint64_t end) {
  if (state.backing || cluster >= state.length_bytes) co_return 0;
  const Run run = co_await state.lookup(cluster, std::min(end, state.length_bytes) - cluster);
  if (run.storage != Storage::kUnallocated || run.has_host)
    co_return 0;  // preallocated: there is space to give back
  co_return cluster + run.length_bytes >= state.length_bytes
      ? end - cluster
      : align_down(run.length_bytes, state.cluster_bytes());
}

// Zeroes [guest, end), made of whole subclusters, by the mapping alone. A cluster that cannot be (part of a
// compressed one) is left: it goes to `left`. What no table maps gets zero entries too, also without a
// backing file: a map tells that it was written, and it stays zero whatever file is put below later.
io::task<void> zero_mapping(State& state, uint64_t guest, uint64_t end, bool may_unmap,
                            std::vector<uint64_t>& left) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  state.require_usable();
  for (uint64_t cluster = state.cluster_start(guest); cluster < end; cluster += state.cluster_bytes()) {
    const uint64_t mask = state.header.extended_l2() ? covered_mask(state, cluster, guest, end) : 1;
    const bool whole = !state.header.extended_l2() || mask == kAllAllocated;
    const L2Entry old = co_await state.entry_at(cluster);
    const bool release = may_unmap && whole && !state.header.external_data();
    if (has_zero_flags(state, old, mask) && !(release && has_host_cluster(old, state.header))) continue;
    const bool shared = has_host_cluster(old, state.header) && !old.copied();
    if (!whole && old.compressed()) {
      left.push_back(cluster);
      continue;
    }
    const L2Entry zeroed = zeroed_entry(state, old, mask, release || shared);
    const SlicePtr slice = co_await state.writable_slice(cluster);
    state.set_entry(*slice, cluster, zeroed);
    if (!has_host_cluster(zeroed, state.header)) state.retire_entry(old, /*discard=*/true);
    if (state.needs_relief()) co_await state.relieve();
  }
}

// How many bytes from `guest` on are known to read as zero from the backing file. Nothing is known where it
// is damaged: a read will say so.
io::task<uint64_t> zero_bytes_below(State& state, uint64_t guest, uint64_t length) {
  if (!state.backing || guest >= state.backing->length_bytes()) co_return length;
  length = std::min(length, state.backing->length_bytes() - guest);
  try {
    const block::Extent below = (co_await block::map_chain(*state.backing, guest, length)).extent;
    co_return below.zero || !below.allocated ? below.length_bytes : 0;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
  co_return 0;
}

// Whether a range reads as zero and none of it is stored in this image.
io::task<bool> unstored_and_zero(State& state, uint64_t guest, uint64_t end) {
  while (guest < end) {
    const Run run = co_await state.lookup(guest, end - guest);
    if (run.storage == Storage::kNormal || run.storage == Storage::kCompressed) co_return false;
    const bool from_below = run.storage == Storage::kUnallocated;
    const uint64_t length =
        from_below ? co_await zero_bytes_below(state, guest, run.length_bytes) : run.length_bytes;
    if (length == 0) co_return false;
    guest += length;
  }
  co_return true;
}

// Zeroes a part of one subcluster: by the mapping, if all of it reads as zero then and none of it is stored.
io::task<void> zero_edge(State& state, io::Reactor& lane, uint64_t guest, uint64_t length, bool may_unmap) {
  if (length == 0) co_return;
  const uint64_t begin = align_down<uint64_t>(guest, state.header.subcluster_bytes());
  const uint64_t end = begin + state.header.subcluster_bytes();
  {
    block::RangeLock::Guard exclusive;
    co_await state.guest_ranges.acquire(exclusive, state.cluster_start(guest), state.cluster_end(guest),
                                        true);
    if (co_await unstored_and_zero(state, begin, std::min(end, state.length_bytes))) {
      std::vector<uint64_t> left;
      co_return co_await zero_mapping(state, begin, end, may_unmap, left);
    }
  }
  co_await write_zero_bytes(state, lane, guest, length);
}

io::task<void> zero_raw_data(State& state, io::Reactor& lane, uint64_t guest, uint64_t length,
                             bool may_unmap) {
  if (state.cipher) co_return co_await write_zero_bytes(state, lane, guest, length);
  Retired::Transfer transfer = state.retired.begin();
  co_await io::enter(lane);
  co_await state.external_data->write_zeroes(guest, length, {.may_unmap = may_unmap});
  transfer.end();
  co_await io::enter(state.home);
}

}  // namespace

io::task<void> State::zero_range(io::Reactor& lane, uint64_t guest, uint64_t length, bool may_unmap) {
  const uint64_t end = guest + length;
  const uint64_t unit = header.subcluster_bytes();
  // The data file must read the same by itself, also beside writes in flight: it alone says what is zero.
  if (header.external_data() && header.raw_external_data())
    co_return co_await zero_raw_data(*this, lane, guest, length, may_unmap);
  // The disk's end need not be a subcluster's: what lies past it is nobody's.
  const uint64_t inner_begin = align_up(guest, unit);
  const uint64_t inner_end = end == length_bytes ? align_up(end, unit) : align_down(end, unit);
  if (header.version < 3) {
    // No zero flag: where nothing is below, unmapped reads as zero.
    if (backing) co_return co_await write_zero_bytes(*this, lane, guest, length);
    co_await discard_range(guest, length);
    co_return co_await zero_stored_bytes(*this, lane, guest, length);
  }
  if (inner_begin > inner_end) co_return co_await zero_edge(*this, lane, guest, length, may_unmap);
  co_await zero_edge(*this, lane, guest, inner_begin - guest, may_unmap);
  if (inner_end < end) co_await zero_edge(*this, lane, inner_end, end - inner_end, may_unmap);
  if (inner_begin == inner_end) co_return;
  std::vector<uint64_t> left;
  {
    block::RangeLock::Guard exclusive;
    co_await guest_ranges.acquire(exclusive, cluster_start(inner_begin), cluster_end(inner_end - 1), true);
    co_await zero_mapping(*this, inner_begin, inner_end, may_unmap, left);
  }
  for (const uint64_t cluster : left) {
    const uint64_t from = std::max(cluster, inner_begin);
    const uint64_t to = std::min({cluster + cluster_bytes(), inner_end, length_bytes});
    co_await write_zero_bytes(*this, lane, from, to - from);
  }
}

// Whole clusters only. Version 3: they read as zero afterwards. Version 2: unmapped, if no backing file would
// show through; else the hint is ignored.
io::task<void> State::discard_range(uint64_t guest, uint64_t length) {
  const uint64_t end = guest + length == length_bytes ? cluster_end(guest + length - 1)
                                                      : align_down<uint64_t>(guest + length, cluster_bytes());
  const uint64_t begin = align_up<uint64_t>(guest, cluster_bytes());
  if (begin >= end || (header.version < 3 && backing)) co_return;
  if (header.external_data() && header.raw_external_data())
    co_return co_await zero_raw_data(*this, home, begin, std::min(end, length_bytes) - begin,
                                     /*may_unmap=*/true);
  block::RangeLock::Guard exclusive;
  co_await guest_ranges.acquire(exclusive, begin, end, true);
  {
    const io::Mutex::Guard guard = co_await metadata.lock();
    require_usable();
    for (uint64_t cluster = begin; cluster < end; cluster += cluster_bytes()) {
      cluster += co_await skippable_bytes(*this, cluster, end);
      if (cluster >= end) break;
      const L2Entry old = co_await entry_at(cluster);
      L2Entry discarded;
      if (header.extended_l2()) {
        discarded.bitmap = kAllZero;
      } else if (header.version >= 3) {
        discarded.word = kZeroFlag;
      }
      const bool nothing_there = !old.compressed() && !has_host_cluster(old, header) && !backing;
      if (old == discarded || nothing_there) continue;
      const SlicePtr slice = co_await writable_slice(cluster);
      set_entry(*slice, cluster, discarded);
      retire_entry(old, /*discard=*/true);
      if (needs_relief()) co_await relieve();
    }
  }
  if (external_data) co_await external_data->discard(begin, std::min(end, length_bytes) - begin);
}

}  // namespace cofre::qcow2
