// Whether a qcow2 image has clusters that were given out but never written, as preallocation of metadata
// leaves them.
#pragma once

#include "block/device.h"
#include "format/qcow2/image.h"

namespace cofre::image {

// True when the image's reference counts hold at least a ninth, and two, more clusters than the host has
// given space to. QEMU judges so (found by experiment with 7.2: 1005 clusters, of which 905 have space, are
// such; with 906, or 15 of 16, they are not), and only then tells holes of the host's file as zeros. Home
// lane; reads the reference counts.
io::task<bool> has_unwritten_clusters(qcow2::Image& image, const block::Device& file);

}  // namespace cofre::image
