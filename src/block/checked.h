// A device that asserts the contract of block/device.h on its way through: put it between any two devices in
// tests.
#pragma once

#include <atomic>
#include <memory>

#include "block/device.h"

namespace cofre::block {

// Breaking the contract (alignment, bounds, a buffer that changes under a write, use after close, an extent
// of wrong length) ends the program with a sentence on standard error: it is a bug, never a matter of input.
std::unique_ptr<Device> make_checked(std::unique_ptr<Device> inner);

}  // namespace cofre::block
