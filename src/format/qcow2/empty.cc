// Emptying an image: afterwards nothing is mapped, and reads show the backing file, or zeros.
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

// Gives up host clusters, neighbours in one run.
class ClusterRuns {
 public:
  explicit ClusterRuns(State& state) : state_(state) {}

  void add(uint64_t host_offset) {
    if (run_.clusters > 0 && run_.host_offset + run_.clusters * state_.cluster_bytes() == host_offset) {
      ++run_.clusters;
      return;
    }
    finish();
    run_ = {host_offset, 1, /*discard=*/true};
  }
  void finish() {
    if (run_.clusters > 0) state_.retired.retire(run_);
    run_.clusters = 0;
  }

 private:
  State& state_;
  Retired::Run run_ = {0, 0, true};
};

}  // namespace

// Nothing is freed before the L1 table without the entry is durable: write_back() sees to it.
io::task<void> State::empty_table(uint64_t index) {
  const uint64_t begin = index * bytes_per_l2_table;
  const uint64_t table = checked_l2_offset(l1[index], begin);
  ClusterRuns runs(*this);
  for (uint64_t i = 0; i < header.l2_entries_per_table(); ++i) {
    const L2Entry entry = co_await entry_at(begin + i * cluster_bytes());
    const bool plain = has_host_cluster(entry, header) && !header.external_data();
    if (plain) {
      runs.add(entry.host_offset());
    } else {
      retire_entry(entry, /*discard=*/true);
    }
  }
  runs.finish();
  retired.retire({table, 1, /*discard=*/true});
  l2_cache.drop(table, cluster_bytes());
  l1.set(index, 0);
}

io::task<void> State::empty() {
  block::RangeLock::Guard exclusive;
  co_await guest_ranges.acquire(exclusive, 0, UINT64_MAX, true);
  {
    const io::Mutex::Guard guard = co_await metadata.lock();
    require_usable();
    co_await write_back(/*durable=*/true);
    for (uint64_t index = 0; index < l1.size(); ++index) {
      if ((l1[index] & kOffsetMask) == 0) continue;
      co_await empty_table(index);
      co_await relieve();
    }
    co_await write_back(/*durable=*/true);
  }
  if (external_data) co_await external_data->discard(0, external_data->length_bytes());
}

}  // namespace cofre::qcow2
