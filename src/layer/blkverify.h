// An image under test beside a raw copy of what it should hold: writes go to both, reads are compared. QEMU's
// blkverify. Any lane.
//
// Concurrent requests to the same bytes must not be sent: nobody orders them alike in both.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::layer {

// A read of what differs throws Error kCorrupt that tells where. Other errors are those of the two.
std::unique_ptr<block::Device> make_blkverify(std::unique_ptr<block::Device> test,
                                              std::unique_ptr<block::Device> raw);

}  // namespace cofre::layer
