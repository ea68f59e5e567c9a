// What can be told of every byte of an image without reading it.
#pragma once

#include <memory>

#include "export/exported.h"
#include "format/qcow2/image.h"

namespace cofre::exporting {

// "base:allocation" of the NBD protocol: bit 0 where nothing is stored (a hole), bit 1 where it reads as
// zero. `device` outlives the source.
std::unique_ptr<StatusSource> make_allocation_status(block::Device& device);
// "qemu:allocation-depth": 1 where the top image decides the content, 2 where its backing file does, and so
// on; 0 where none does.
std::unique_ptr<StatusSource> make_depth_status(block::Device& device);

// "qemu:dirty-bitmap:NAME": 1 where a persistent bitmap of the image is set, as it is now. The image outlives
// the source and is not resized. Throws Error as the actions of bitmap_actions.h do.
io::task<std::shared_ptr<StatusSource>> make_bitmap_status(qcow2::Image& image, std::string name);

}  // namespace cofre::exporting
