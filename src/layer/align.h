// A device that takes requests of finer alignment than the device below it.
//
// Reads go through a buffer at their edges; writes read, modify and write the blocks at their edges, in order
// with all other writes to those blocks, whatever lane they come from. Aligned reads cost nothing, aligned
// writes a list entry.
#pragma once

#include <cstdint>
#include <memory>

#include "block/device.h"

namespace cofre::layer {

// `alignment` is a power of two. Gives `inner` itself if its requests are that fine already. The device has
// no lane of its own: requests run on the lane they come from. Errors are those of `inner`.
//   * An unaligned write that grows a growable `inner` resizes it first, so that length_bytes() is exact.
//   * A discard leaves incomplete blocks at its edges alone. write_zeroes writes the edges, even with
//   no_fallback.
//   * Unlike other requests, resize() to a smaller length must not run beside writes.
std::unique_ptr<block::Device> make_aligning(std::unique_ptr<block::Device> inner, uint32_t alignment);

}  // namespace cofre::layer
