// A part of a device, with what lies below it, as a device of its own: for reading only, from any byte on.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::layer {

// `inner` is the caller's and outlives the excerpt. [begin, begin + length) lies within it; any lane may read
// it that may read `inner`. Requests are of any alignment; unaligned ones go through a buffer.
std::unique_ptr<block::Device> make_excerpt(block::Device& inner, uint64_t begin, uint64_t length);

}  // namespace cofre::layer
