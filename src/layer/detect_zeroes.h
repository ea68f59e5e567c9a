// Writes of nothing but zero bytes become write_zeroes: detect-zeroes=on|unmap. Any lane; the errors of the
// device below.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::layer {

// `may_unmap`: such writes may release the space below.
std::unique_ptr<block::Device> make_detect_zeroes(std::unique_ptr<block::Device> inner, bool may_unmap);

}  // namespace cofre::layer
