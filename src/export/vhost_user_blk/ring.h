// A virtqueue as its device sees it, whichever of the two layouts it has. One lane's.
//
// Source: VIRTIO 1.2, 2.7 (split) and 2.8 (packed). Everything in the guest's memory is hostile: functions
// throw Error kCorrupt for a ring that breaks the rules, and then the ring is not to be used any more.
#pragma once

#include <atomic>
#include <memory>

#include "export/vhost_user_blk/chain.h"

namespace cofre::vhost {

// Where a ring's parts are, in our address space. Each is as long as the layout makes it.
struct RingPlace {
  std::byte* descriptors = nullptr;
  std::byte* driver = nullptr;  // split: the available ring; packed: the driver's event suppression
  std::byte* device = nullptr;  // split: the used ring; packed: the device's event suppression
};
struct RingBytes {
  uint64_t descriptors;
  uint64_t driver;
  uint64_t device;
};
RingBytes ring_bytes(uint16_t size, bool packed) noexcept;

struct RingSetup {
  RingPlace place;
  uint16_t size = 0;      // descriptors; split: a power of two
  bool indirect = false;  // these two as negotiated
  bool event_index = false;
  uint32_t base = 0;                    // as of SET_VRING_BASE
  const GuestMemory* memory = nullptr;  // outlives the ring
  std::byte* inflight = nullptr;        // this queue's part of the in-flight area, or null; outlives the ring
};

class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  virtual ~Ring() = default;

  // The next request that a server before this one took and did not complete, oldest first. False: no more.
  // Before anything is taken.
  virtual bool take_interrupted(Chain& chain) = 0;
  // The next request that the driver made available. False: there is none now.
  virtual bool take(Chain& chain) = 0;
  // The request is done; the driver learns of it with the next publish(), together with others.
  virtual void complete(const Chain& chain, uint32_t written_bytes) = 0;
  // Whether the driver wants to be called for what it learns now.
  virtual bool publish() = 0;
  // While the ring is looked at anyway the driver need not kick.
  virtual void suppress_kicks() = 0;
  // From now on it must. False: something became available meanwhile.
  virtual bool request_kicks() = 0;
  // As GET_VRING_BASE gives it; nothing is in flight.
  virtual uint32_t base() const = 0;
};

// Throws Error kInvalidArgument, kCorrupt.
std::unique_ptr<Ring> make_split_ring(const RingSetup& setup);
std::unique_ptr<Ring> make_packed_ring(const RingSetup& setup);

// ---- for the two layouts ----

// Integers that the guest changes meanwhile. `at` is aligned.
inline uint16_t load_shared(const std::byte* at, std::memory_order order = std::memory_order_relaxed) {
  auto* const value = reinterpret_cast<uint16_t*>(const_cast<std::byte*>(at));
  return std::atomic_ref<uint16_t>(*value).load(order);
}
inline void store_shared(std::byte* at, uint16_t value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at)).store(value, order);
}
// Whether an index that went from `before` to `now` has passed `event`. VIRTIO 1.2, 2.7.10.
inline bool passes_event(uint16_t event, uint16_t now, uint16_t before) noexcept {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

}  // namespace cofre::vhost
