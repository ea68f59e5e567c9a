#include "export/vhost_user_blk/ring.h"

namespace cofre::vhost {

// VIRTIO 1.2, 2.7: the rings have a header of 4 bytes and the event index of 2 behind their entries.
RingBytes ring_bytes(uint16_t size, bool packed) noexcept {
  const uint64_t descriptors = kDescriptorBytes * uint64_t{size};
  if (packed) return {.descriptors = descriptors, .driver = 4, .device = 4};
  return {.descriptors = descriptors, .driver = 6 + 2 * uint64_t{size}, .device = 6 + 8 * uint64_t{size}};
}

}  // namespace cofre::vhost
