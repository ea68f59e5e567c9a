// The split layout of a virtqueue: VIRTIO 1.2, 2.7.
#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "export/vhost_user_blk/ring.h"
#include "export/vhost_user_blk/split_inflight.h"

namespace cofre::vhost {
namespace {

constexpr uint16_t kNoKicks = 1;  // flags of the used ring
constexpr uint16_t kNoCalls = 1;  // flags of the available ring
constexpr size_t kIndexAt = 2;
constexpr size_t kEntriesAt = 4;
constexpr size_t kUsedEntryBytes = 8;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

struct UsedEntry {
  uint32_t id;
  uint32_t length;
};

class SplitRing final : public Ring {
 public:
  explicit SplitRing(const RingSetup& setup)
      : setup_(setup), busy_(setup.size), next_(static_cast<uint16_t>(setup.base)), seen_(next_) {
    if (setup.size == 0 || !std::has_single_bit(setup.size))
      fail(ErrorKind::kInvalidArgument, "a split ring of {} descriptors", setup.size);
    used_ = load_shared(setup.place.device + kIndexAt);
    batch_.reserve(setup.size);
    if (setup.inflight != nullptr) resume();
  }

  bool take_interrupted(Chain& chain) override;
  bool take(Chain& chain) override;
  void complete(const Chain& chain, uint32_t written_bytes) override {
    batch_.push_back({chain.id, written_bytes});
  }
  bool publish() override;
  void suppress_kicks() override {
    if (!setup_.event_index) store_shared(setup_.place.device, kNoKicks);
  }
  bool request_kicks() override;
  uint32_t base() const override { return next_; }

 private:
  void resume();
  void read_chain(uint16_t head, Chain& chain);
  Descriptor descriptor(uint16_t index) const {
    Descriptor copy;
    std::memcpy(&copy, setup_.place.descriptors + size_t{index} * kDescriptorBytes, sizeof copy);
    // Or the compiler may read it once more.
    std::atomic_signal_fence(std::memory_order_acq_rel);
    return copy;
  }
  bool wants_call(uint16_t before);
  // The driver's wish where it is to be called lies behind its entries, ours behind the used entries.
  std::byte* used_event() const { return setup_.place.driver + kEntriesAt + setup_.size * sizeof(uint16_t); }
  std::byte* available_event() const {
    return setup_.place.device + kEntriesAt + setup_.size * kUsedEntryBytes;
  }

  const RingSetup setup_;
  std::vector<bool> busy_;  // by head: taken and not completed
  uint16_t next_;           // index of the available ring
  uint16_t seen_;           // the driver's index when it was looked at
  uint16_t used_ = 0;       // index of the used ring
  bool told_ = false;       // the driver was called since the ring was started
  std::vector<UsedEntry> batch_;
  std::optional<SplitInflight> inflight_;
  std::vector<uint16_t> interrupted_;  // heads, the oldest last
};

// What was taken and is not in the used ring was in flight.
void SplitRing::resume() {
  inflight_.emplace(setup_.inflight, setup_.size);
  const bool fresh = inflight_->fresh();
  interrupted_ = inflight_->recover(used_);
  if (!fresh) next_ = static_cast<uint16_t>(used_ + interrupted_.size());
  seen_ = next_;
  std::reverse(interrupted_.begin(), interrupted_.end());
}

bool SplitRing::take_interrupted(Chain& chain) {
  if (interrupted_.empty()) return false;
  const uint16_t head = interrupted_.back();
  interrupted_.pop_back();
  read_chain(head, chain);
  busy_[head] = true;
  return true;
}

bool SplitRing::take(Chain& chain) {
  if (seen_ == next_) {
    seen_ = load_shared(setup_.place.driver + kIndexAt, std::memory_order_acquire);
    if (seen_ == next_) return false;
    if (static_cast<uint16_t>(seen_ - next_) > setup_.size)
      fail(ErrorKind::kCorrupt, "the available index jumped from {} to {}, in a ring of {}", next_, seen_,
           setup_.size);
  }
  const size_t place = next_ & (setup_.size - 1u);
  const uint16_t head = load_shared(setup_.place.driver + kEntriesAt + place * sizeof(uint16_t));
  if (head >= setup_.size) fail(ErrorKind::kCorrupt, "descriptor {} of a ring of {}", head, setup_.size);
  if (busy_[head]) fail(ErrorKind::kCorrupt, "descriptor {} was made available twice", head);
  read_chain(head, chain);
  busy_[head] = true;
  if (inflight_) inflight_->note_taken(head);
  ++next_;
  return true;
}

void SplitRing::read_chain(uint16_t head, Chain& chain) {
  chain.clear();
  chain.id = head;
  ChainBuilder builder(*setup_.memory, chain);
  uint16_t index = head;
  while (true) {
    const Descriptor found = descriptor(index);
    if (++chain.descriptors > setup_.size)
      fail(ErrorKind::kCorrupt, "the chain from descriptor {} on is a loop", head);
    if ((found.flags & descriptor_flag::kIndirect) != 0) {
      if (!setup_.indirect || (found.flags & descriptor_flag::kNext) != 0)
        fail(ErrorKind::kCorrupt, "an indirect table in descriptor {}, where none may be", index);
      builder.add_table(found.address, found.length, /*linked=*/true);
      return;
    }
    builder.add(found.address, found.length, (found.flags & descriptor_flag::kWrite) != 0);
    if ((found.flags & descriptor_flag::kNext) == 0) return;
    index = found.next;
    if (index >= setup_.size) fail(ErrorKind::kCorrupt, "descriptor {} of a ring of {}", index, setup_.size);
  }
}

bool SplitRing::publish() {
  if (batch_.empty()) return false;
  const uint16_t before = used_;
  for (const UsedEntry& entry : batch_) {
    const size_t place = used_ & (setup_.size - 1u);
    std::memcpy(setup_.place.device + kEntriesAt + place * kUsedEntryBytes, &entry, sizeof entry);
    const auto head = static_cast<uint16_t>(entry.id);
    if (inflight_) inflight_->note_used(head);
    busy_[head] = false;
    ++used_;
  }
  store_shared(setup_.place.device + kIndexAt, used_, std::memory_order_release);
  if (inflight_) inflight_->note_published(used_);
  batch_.clear();
  return wants_call(before);
}

bool SplitRing::wants_call(uint16_t before) {
  // The driver must see the used index before we look whether it waits.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!std::exchange(told_, true)) return true;
  if (setup_.event_index) return passes_event(load_shared(used_event()), used_, before);
  return (load_shared(setup_.place.driver) & kNoCalls) == 0;
}

bool SplitRing::request_kicks() {
  if (setup_.event_index) {
    store_shared(available_event(), next_);
  } else {
    store_shared(setup_.place.device, 0);
  }
  // The driver must see that before we look for the last time.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return load_shared(setup_.place.driver + kIndexAt, std::memory_order_acquire) == next_;
}

}  // namespace

std::unique_ptr<Ring> make_split_ring(const RingSetup& setup) {
  return std::make_unique<SplitRing>(setup);
}

}  // namespace cofre::vhost
