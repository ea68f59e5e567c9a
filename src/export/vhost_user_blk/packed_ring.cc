// The packed layout of a virtqueue: VIRTIO 1.2, 2.8.
#include <deque>
#include <optional>

#include "base/error.h"
#include "export/vhost_user_blk/packed_inflight.h"
#include "export/vhost_user_blk/ring.h"

namespace cofre::vhost {
namespace {

constexpr uint16_t kAvailableFlag = 1 << 7;
constexpr uint16_t kUsedFlag = 1 << 15;
constexpr size_t kLengthAt = 8;  // in a descriptor
constexpr size_t kIdAt = 12;
constexpr size_t kFlagsAt = 14;
// The event suppression structures.
constexpr size_t kEventFlagsAt = 2;
constexpr uint16_t kEventsOn = 0;
constexpr uint16_t kEventsOff = 1;
constexpr uint16_t kEventAtIndex = 2;
constexpr uint16_t kWrapBit = 1 << 15;

constexpr uint16_t kMostDescriptors = 1 << 15;

struct Completed {
  uint16_t id;
  uint16_t descriptors;
  uint16_t slot;
  uint32_t written_bytes;
};

PackedIndex unpack(uint32_t half) {
  return {.index = static_cast<uint16_t>(half & ~uint32_t{kWrapBit}), .wrap = (half & kWrapBit) != 0};
}
uint32_t pack(PackedIndex index) {
  return index.index | (index.wrap ? uint32_t{kWrapBit} : 0);
}

class PackedRing final : public Ring {
 public:
  explicit PackedRing(const RingSetup& setup)
      : setup_(setup), next_(unpack(setup.base & 0xffff)), used_(next_) {
    if (setup.size == 0 || setup.size > kMostDescriptors || next_.index >= setup.size)
      fail(ErrorKind::kInvalidArgument, "a packed ring of {} descriptors that starts at {}", setup.size,
           next_.index);
    batch_.reserve(setup.size);
    if (setup.inflight != nullptr) resume();
  }

  bool take_interrupted(Chain& chain) override;
  bool take(Chain& chain) override;
  void complete(const Chain& chain, uint32_t written_bytes) override {
    batch_.push_back({chain.id, chain.descriptors, chain.slot, written_bytes});
  }
  bool publish() override;
  void suppress_kicks() override { store_shared(setup_.place.device + kEventFlagsAt, kEventsOff); }
  bool request_kicks() override;
  // The device's own index stands where the driver's does, for nothing is in flight.
  uint32_t base() const override { return pack(next_) | (pack(used_) << 16); }

 private:
  void resume();
  void build(Chain& chain) const;
  std::byte* descriptor(uint16_t index) const {
    return setup_.place.descriptors + size_t{index} * kDescriptorBytes;
  }
  bool is_available(PackedIndex at) const {
    const uint16_t flags = load_shared(descriptor(at.index) + kFlagsAt, std::memory_order_acquire);
    return ((flags & kAvailableFlag) != 0) == at.wrap && ((flags & kUsedFlag) != 0) != at.wrap;
  }
  PackedDescriptor read(uint16_t index) const;
  void write_used(PackedIndex at, const Completed& done, bool with_flags) const;
  static uint16_t used_flags(PackedIndex at, const Completed& done) {
    const uint16_t turn = at.wrap ? kAvailableFlag | kUsedFlag : 0;
    return static_cast<uint16_t>(turn | (done.written_bytes > 0 ? descriptor_flag::kWrite : 0));
  }
  bool wants_call(PackedIndex before);

  const RingSetup setup_;
  PackedIndex next_;                     // where the driver makes the next request available
  PackedIndex used_;                     // where the next used descriptor goes
  uint16_t outstanding_ = 0;             // descriptors between the two
  bool told_ = false;                    // the driver was called since the ring was started
  std::vector<PackedDescriptor> taken_;  // those of the chain that is being read
  std::vector<Completed> batch_;
  std::optional<PackedInflight> inflight_;
  std::deque<PackedInflight::Interrupted> interrupted_;
};

void PackedRing::resume() {
  inflight_.emplace(setup_.inflight, setup_.size);
  auto found =
      inflight_->recover(used_, [this](uint16_t index) { return load_shared(descriptor(index) + kFlagsAt); });
  next_ = used_;
  for (auto& request : found) {
    const auto descriptors = static_cast<uint16_t>(request.descriptors.size());
    next_.advance(descriptors, setup_.size);
    outstanding_ = static_cast<uint16_t>(outstanding_ + descriptors);
    interrupted_.push_back(std::move(request));
  }
}

bool PackedRing::take_interrupted(Chain& chain) {
  if (interrupted_.empty()) return false;
  taken_ = std::move(interrupted_.front().descriptors);
  const uint16_t slot = interrupted_.front().slot;
  interrupted_.pop_front();
  build(chain);
  chain.slot = slot;
  return true;
}

PackedDescriptor PackedRing::read(uint16_t index) const {
  const std::byte* const from = descriptor(index);
  PackedDescriptor copy = {.address = load_native<uint64_t>(from),
                           .length = load_native<uint32_t>(from + kLengthAt),
                           .id = load_native<uint16_t>(from + kIdAt),
                           .flags = load_shared(from + kFlagsAt)};
  // Or the compiler may read it once more.
  std::atomic_signal_fence(std::memory_order_acq_rel);
  return copy;
}

bool PackedRing::take(Chain& chain) {
  if (!is_available(next_)) return false;
  taken_.clear();
  PackedIndex at = next_;
  do {
    if (taken_.size() == setup_.size)
      fail(ErrorKind::kCorrupt, "a chain of more descriptors than the ring has");
    taken_.push_back(read(at.index));
    at.advance(1, setup_.size);
  } while ((taken_.back().flags & descriptor_flag::kNext) != 0);
  if (outstanding_ + taken_.size() > setup_.size)
    fail(ErrorKind::kCorrupt, "the driver makes descriptors available that the device has not used yet");
  build(chain);
  if (inflight_) chain.slot = inflight_->note_taken(taken_);
  outstanding_ = static_cast<uint16_t>(outstanding_ + taken_.size());
  next_ = at;
  return true;
}

void PackedRing::build(Chain& chain) const {
  chain.clear();
  chain.id = taken_.back().id;
  chain.descriptors = static_cast<uint16_t>(taken_.size());
  ChainBuilder builder(*setup_.memory, chain);
  for (const PackedDescriptor& each : taken_) {
    if ((each.flags & descriptor_flag::kIndirect) == 0) {
      builder.add(each.address, each.length, (each.flags & descriptor_flag::kWrite) != 0);
      continue;
    }
    if (!setup_.indirect || taken_.size() > 1)
      fail(ErrorKind::kCorrupt, "an indirect table in a descriptor where none may be");
    builder.add_table(each.address, each.length, /*linked=*/false);
  }
}

void PackedRing::write_used(PackedIndex at, const Completed& done, bool with_flags) const {
  std::byte* const to = descriptor(at.index);
  store_le(to + kIdAt, done.id);
  store_le(to + kLengthAt, done.written_bytes);
  if (with_flags) store_shared(to + kFlagsAt, used_flags(at, done), std::memory_order_release);
}

// The flags of the first one make all of them visible at once.
bool PackedRing::publish() {
  if (batch_.empty()) return false;
  const PackedIndex before = used_;
  for (const Completed& done : batch_) {
    write_used(used_, done, /*with_flags=*/&done != batch_.data());
    if (inflight_) inflight_->note_used(done.slot);
    used_.advance(done.descriptors, setup_.size);
    outstanding_ = static_cast<uint16_t>(outstanding_ - done.descriptors);
  }
  if (inflight_) inflight_->note_batch(used_);
  store_shared(descriptor(before.index) + kFlagsAt, used_flags(before, batch_.front()),
               std::memory_order_release);
  if (inflight_) inflight_->note_published();
  batch_.clear();
  return wants_call(before);
}

bool PackedRing::wants_call(PackedIndex before) {
  // The driver must see the used descriptors before we look whether it waits.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!std::exchange(told_, true)) return true;
  const uint16_t flags = load_shared(setup_.place.driver + kEventFlagsAt);
  if (flags == kEventsOff) return false;
  if (flags != kEventAtIndex || !setup_.event_index) return true;
  const PackedIndex event = unpack(load_shared(setup_.place.driver));
  // In the numbers of the turn that the used index is in now; those of the turn before lie below zero.
  const auto in_this_turn = [&](PackedIndex index) {
    return static_cast<uint16_t>(index.wrap == used_.wrap ? index.index : index.index - setup_.size);
  };
  return passes_event(in_this_turn(event), used_.index, in_this_turn(before));
}

bool PackedRing::request_kicks() {
  if (setup_.event_index) {
    store_shared(setup_.place.device, static_cast<uint16_t>(pack(next_)));
    store_shared(setup_.place.device + kEventFlagsAt, kEventAtIndex, std::memory_order_release);
  } else {
    store_shared(setup_.place.device + kEventFlagsAt, kEventsOn);
  }
  // The driver must see that before we look for the last time.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !is_available(next_);
}

}  // namespace

std::unique_ptr<Ring> make_packed_ring(const RingSetup& setup) {
  return std::make_unique<PackedRing>(setup);
}

}  // namespace cofre::vhost
