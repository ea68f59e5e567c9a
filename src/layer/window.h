// A stretch of another device as a device of its own: raw's offset= and size=. Any lane; the errors of the
// device below.
#pragma once

#include <memory>
#include <optional>

#include "block/device.h"

namespace cofre::layer {

// From `offset` on, `length` bytes, or without a length up to the end of `inner` (then it grows with it).
// Requests are as fine as `offset` and `inner` allow. Throws Error kInvalidArgument if the window does not
// lie within `inner`.
std::unique_ptr<block::Device> make_window(std::unique_ptr<block::Device> inner, uint64_t offset,
                                           std::optional<uint64_t> length);

}  // namespace cofre::layer
