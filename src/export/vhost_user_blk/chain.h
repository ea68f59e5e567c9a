// A chain of descriptors, made into runs of the guest's memory: what the driver asks for in one request.
//
// Source: VIRTIO 1.2, 2.7.5 (split), 2.8.1 (packed).
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "export/vhost_user_blk/guest_memory.h"

namespace cofre::vhost {

// Rings are little-endian, and are read and written as the machine does it.
static_assert(std::endian::native == std::endian::little);

namespace descriptor_flag {
inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;  // by the device
inline constexpr uint16_t kIndirect = 4;
}  // namespace descriptor_flag

// More a request may not have, directly or indirectly.
inline constexpr size_t kMostChainDescriptors = 1024;
inline constexpr size_t kDescriptorBytes = 16;

struct Chain {
  uint16_t id = 0;           // split: the head; packed: the buffer's
  uint16_t descriptors = 0;  // that it takes up in the ring
  uint16_t slot = 0;         // where it is tracked, packed
  std::vector<Segment> readable;
  std::vector<Segment> writable;

  void clear() noexcept {
    id = descriptors = slot = 0;
    readable.clear();
    writable.clear();
  }
};

uint64_t total_bytes(const std::vector<Segment>& segments) noexcept;

// Puts descriptors one after the other into a chain. Throws Error kCorrupt for what the specification
// forbids.
class ChainBuilder {
 public:
  ChainBuilder(const GuestMemory& memory, Chain& chain) : memory_(memory), chain_(chain) {}

  void add(uint64_t address, uint32_t length, bool device_writes);
  // A table of descriptors in the guest's memory. `linked`: they name each other (split ring); else one
  // follows the other (packed).
  void add_table(uint64_t address, uint32_t length, bool linked);

 private:
  void copy_table(uint64_t address, uint32_t length);

  const GuestMemory& memory_;
  Chain& chain_;
  size_t added_ = 0;
};

}  // namespace cofre::vhost
