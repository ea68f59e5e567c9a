// What is read from the backing file is written into the device, so that the next read finds it there: the
// filter copy-on-read. Any lane.
//
// A copy and the guest's writes to the same clusters are kept in order, so that a copy never brings back old
// bytes. Errors are those of the device below, which must be writable.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::layer {

std::unique_ptr<block::Device> make_copy_on_read(std::unique_ptr<block::Device> inner);

}  // namespace cofre::layer
