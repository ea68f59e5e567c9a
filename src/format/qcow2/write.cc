// Writes: in place where the mapping stays, else allocate, move (with copy-on-write around the edges),
// commit.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

// Up to this size, edges and data are joined in one buffer and written at once.
constexpr uint64_t kJoinBytes = 256 * kKiB;

// One allocating write: consecutive clusters that all get new host clusters in one run, or all fill a run
// they have.
class AllocatingWrite {
 public:
  AllocatingWrite(State& state, io::Reactor& lane, uint64_t guest, ConstBytes source)
      : state_(state), lane_(lane), guest_(guest), source_(source) {}

  // Returns how many bytes of the source were written; 0 if the range can be written in place after all.
  io::task<uint64_t> run() {
    {
      const io::Mutex::Guard guard = co_await state_.metadata.lock();
      state_.require_usable();
      co_await classify();
      if (clusters_ == 0) co_return 0;
      co_await allocate();
    }
    std::exception_ptr failure;
    try {
      co_await move();
    } catch (...) {
      failure = std::current_exception();
    }
    co_await io::enter(state_.home);
    const io::Mutex::Guard guard = co_await state_.metadata.lock();
    if (failure) {
      co_await give_back();
      std::rethrow_exception(failure);
    }
    co_await commit();
    co_await state_.relieve();
    co_return source_.size();
  }

 private:
  uint64_t first_cluster() const { return state_.cluster_start(guest_); }
  uint64_t end() const { return guest_ + source_.size(); }

  static bool reusable(const State& state, L2Entry entry) {
    return entry.copied() && has_host_cluster(entry, state.header);
  }

  // Whether every subcluster that this write touches is stored in place already.
  bool all_in_place(L2Entry entry, uint64_t cluster) const {
    if (!reusable(state_, entry)) return false;
    const uint64_t unit = state_.header.subcluster_bytes();
    const uint64_t from = std::max(guest_, cluster) - cluster;
    const uint64_t to = std::min(end(), cluster + state_.cluster_bytes()) - cluster;
    for (uint64_t sub = from / unit; sub <= (to - 1) / unit; ++sub)
      if (storage_of(entry, static_cast<unsigned>(sub), state_.header) != Storage::kNormal) return false;
    return true;
  }

  // Decides how many clusters go together, and whether they keep their host clusters.
  io::task<void> classify() {
    uint64_t cluster = first_cluster();
    for (; cluster < end(); cluster += state_.cluster_bytes()) {
      const L2Entry entry = co_await state_.entry_at(cluster);
      if (all_in_place(entry, cluster)) break;
      const bool reuse = reusable(state_, entry);
      if (clusters_ == 0) {
        reuse_ = reuse;
        host_ = entry.host_offset();
        first_entry_ = entry;
      } else if (reuse != reuse_ || (reuse && entry.host_offset() != host_ + (cluster - first_cluster()))) {
        break;
      }
      last_entry_ = entry;
      ++clusters_;
    }
  }

  io::task<void> allocate() {
    const uint64_t bytes = state_.cluster_bytes();
    if (state_.header.external_data()) {
      host_ = first_cluster();  // guest and host offsets are the same there
    } else if (!reuse_) {
      co_await state_.writable_slice(first_cluster());  // its table comes before the data
      const ClusterRun run = co_await state_.refcounts.allocate(clusters_);
      host_ = run.host_offset;
      fresh_ = run.fresh;
      if (run.clusters < clusters_) {
        clusters_ = run.clusters;
        last_entry_ = co_await state_.entry_at(first_cluster() + (clusters_ - 1) * bytes);
      }
      allocated_ = true;
    } else if (state_.metadata_map.overlaps(host_, clusters_ * bytes)) {
      state_.fail_corrupt(fmt::format(
          "guest offset {} is mapped onto metadata at host offset {}; nothing was written", guest_, host_));
    }
    source_ = source_.first(std::min<uint64_t>(source_.size(), first_cluster() + clusters_ * bytes - guest_));
    plan_edges();
  }

  // The subclusters whose bytes go along to the new host cluster of a partly written one.
  uint64_t carried_subclusters(L2Entry entry) const {
    if (reuse_) return 0;
    if (entry.compressed()) return state_.header.extended_l2() ? kAllAllocated : 1;
    return entry.bitmap & kAllAllocated;
  }

  // The edges reach to the subcluster's border, and as far as there is something to carry.
  void plan_edges() {
    const uint64_t unit = state_.header.subcluster_bytes();
    const uint64_t last_cluster = first_cluster() + (clusters_ - 1) * state_.cluster_bytes();
    cow_begin_ = align_down(guest_, unit);
    cow_end_ = align_up(end(), unit);
    if (const uint64_t carried = carried_subclusters(first_entry_); carried != 0)
      cow_begin_ = std::min(cow_begin_, first_cluster() + std::countr_zero(carried) * unit);
    if (const uint64_t carried = carried_subclusters(last_entry_); carried != 0)
      cow_end_ = std::max(cow_end_, last_cluster + std::bit_width(carried) * unit);
    if (reuse_ && state_.header.extended_l2()) {
      // Subclusters at the edges that are stored already need no copy.
      if (stored_in_place(first_entry_, guest_)) cow_begin_ = guest_;
      if (stored_in_place(last_entry_, end() - 1)) cow_end_ = end();
    }
  }

  bool stored_in_place(L2Entry entry, uint64_t guest) const {
    const auto sub = static_cast<unsigned>(guest % state_.cluster_bytes() / state_.header.subcluster_bytes());
    return storage_of(entry, sub, state_.header) == Storage::kNormal;
  }

  HostOffset host_of(uint64_t guest) const { return HostOffset{host_ + (guest - first_cluster())}; }

  io::task<void> move() {
    const uint64_t head = guest_ - cow_begin_;
    const uint64_t tail = cow_end_ - end();
    if (head == 0 && tail == 0) {
      co_await io::enter(lane_);
      co_return co_await state_.write_stored(guest_, host_of(guest_), source_);
    }
    if (!state_.cipher && co_await edges_read_zero()) co_return co_await move_with_zero_edges();
    if (cow_end_ - cow_begin_ <= std::max(kJoinBytes, state_.header.subcluster_bytes()))
      co_return co_await move_joined();
    co_await copy_edge(cow_begin_, head);
    co_await copy_edge(end(), tail);
    co_await io::enter(lane_);
    co_await state_.write_stored(guest_, host_of(guest_), source_);
  }

  io::task<bool> range_reads_zero(uint64_t guest, uint64_t length) {
    while (length > 0) {
      const Run run = co_await state_.lookup(guest, length);
      if (!state_.reads_zero(run)) co_return false;
      guest += run.length_bytes;
      length -= run.length_bytes;
    }
    co_return true;
  }

  // The disk's last cluster may pass its end: nothing is there to read. The VM state has no end.
  uint64_t readable(uint64_t guest, uint64_t length) const {
    if (guest >= state_.vm_state_start()) return length;
    return guest >= state_.length_bytes ? 0 : std::min(length, state_.length_bytes - guest);
  }

  io::task<bool> edges_read_zero() {
    co_return co_await range_reads_zero(cow_begin_, guest_ - cow_begin_) &&
        co_await range_reads_zero(end(), readable(end(), cow_end_ - end()));
  }

  io::task<void> move_with_zero_edges() {
    co_await io::enter(lane_);
    if (!fresh_ || !state_.data().limits().grows_with_zeroes) {
      co_await state_.data().write_zeroes(host_of(cow_begin_).bytes, guest_ - cow_begin_);
      co_await state_.data().write_zeroes(host_of(end()).bytes, cow_end_ - end());
    }
    co_await state_.write_stored(guest_, host_of(guest_), source_);
  }

  io::task<void> read_old(uint64_t guest, Bytes into) {
    const uint64_t there = readable(guest, into.size());
    std::memset(into.data() + there, 0, into.size() - there);
    co_await state_.read_range(lane_, guest, into.first(there));
  }

  io::task<void> move_joined() {
    AlignedBuffer whole(cow_end_ - cow_begin_);
    const uint64_t head = guest_ - cow_begin_;
    co_await read_old(cow_begin_, whole.bytes().first(head));
    co_await read_old(end(), whole.bytes().subspan(head + source_.size()));
    co_await io::enter(lane_);
    std::memcpy(whole.data() + head, source_.data(), source_.size());
    co_await state_.write_stored(cow_begin_, host_of(cow_begin_), whole.bytes());
  }

  io::task<void> copy_edge(uint64_t guest, uint64_t length) {
    if (length == 0) co_return;
    AlignedBuffer edge(length);
    co_await read_old(guest, edge.bytes());
    co_await state_.write_stored(guest, host_of(guest), edge.bytes());
  }

  io::task<void> give_back() {
    if (allocated_) co_await state_.refcounts.adjust(host_, clusters_, -1);
  }

  L2Entry new_entry(L2Entry old, uint64_t cluster) const {
    L2Entry entry{(host_ + (cluster - first_cluster())) | kCopiedFlag, 0};
    if (!state_.header.extended_l2()) return entry;
    const uint64_t unit = state_.header.subcluster_bytes();
    const uint64_t from = (std::max(cow_begin_, cluster) - cluster) / unit;
    const uint64_t to = div_ceil(std::min(cow_end_, cluster + state_.cluster_bytes()) - cluster, unit);
    const uint64_t written = subcluster_mask(static_cast<unsigned>(from), static_cast<unsigned>(to - from));
    const uint64_t kept = old.compressed() ? 0 : old.bitmap;
    entry.bitmap = (kept | written) & ~(written << 32);
    return entry;
  }

  io::task<void> commit() {
    const uint64_t run_end = first_cluster() + clusters_ * state_.cluster_bytes();
    for (uint64_t cluster = first_cluster(); cluster < run_end;) {
      const SlicePtr slice = co_await state_.writable_slice(cluster);
      for (const uint64_t slice_end = std::min(run_end, state_.slice_coverage_end(cluster));
           cluster < slice_end; cluster += state_.cluster_bytes()) {
        const L2Entry old = state_.entry_in(*slice, cluster);
        state_.set_entry(*slice, cluster, new_entry(old, cluster));
        if (!reuse_) state_.retire_entry(old, /*discard=*/true);
      }
    }
  }

  State& state_;
  io::Reactor& lane_;
  uint64_t guest_;
  ConstBytes source_;

  uint64_t clusters_ = 0;
  bool reuse_ = false;      // the clusters keep the host clusters they have
  bool allocated_ = false;  // host_ was taken for this write
  bool fresh_ = false;
  uint64_t host_ = 0;  // of first_cluster()
  L2Entry first_entry_;
  L2Entry last_entry_;
  uint64_t cow_begin_ = 0;  // guest range that is written, edges included
  uint64_t cow_end_ = 0;
};

}  // namespace

io::task<void> State::write_range(io::Reactor& lane, uint64_t guest, ConstBytes source) {
  while (!source.empty()) {
    std::optional<Run> known = try_lookup(guest, source.size());
    const Run run = known ? *known : co_await lookup(guest, source.size());
    uint64_t written = 0;
    if (run.in_place()) {
      if (metadata_map.overlaps(run.host.bytes, run.length_bytes) && !external_data)
        fail_corrupt(
            fmt::format("guest offset {} is mapped onto metadata at host offset {}; nothing was written",
                        guest, run.host.bytes));
      written = run.length_bytes;
      Retired::Transfer transfer = retired.begin();
      co_await io::enter(lane);
      co_await write_stored(guest, run.host, source.first(written));
      transfer.end();
      co_await io::enter(home);
    } else {
      block::RangeLock::Guard exclusive;
      co_await guest_ranges.acquire(exclusive, cluster_start(guest), cluster_end(guest + source.size() - 1),
                                    true);
      written = co_await AllocatingWrite(*this, lane, guest, source).run();
    }
    guest += written;
    source = source.subspan(written);
  }
}

}  // namespace cofre::qcow2
