// Changes the size of images that exist, and of plain files. Home lane.
#pragma once

#include <string_view>

#include "format/qcow2/create.h"
#include "image/open.h"

namespace cofre::image {

// "off", "metadata", "falloc", "full". Throws Error kInvalidArgument.
qcow2::Preallocation parse_preallocation(std::string_view name);

// Gives the top of the chain, opened for writing, a new size. What a shorter one loses is gone; the new bytes
// of a longer one read as zero, except in a LUKS container: there they are noise until they are written, as
// with QEMU, unless preallocation is full. Throws Error; kInvalidArgument for sizes and preallocation that
// the format does not have.
io::task<void> resize_image(OpenedImage& image, uint64_t length, qcow2::Preallocation mode);

// Gives a part of a file its space on the disk (falloc) or zero bytes (full).
io::task<void> preallocate_file(storage::FileDevice& file, uint64_t begin, uint64_t end,
                                qcow2::Preallocation mode);
// Gives a file a new length, and what is new of it its space on the disk (falloc) or zero bytes (full).
io::task<void> resize_file(storage::FileDevice& file, uint64_t length, qcow2::Preallocation mode);

}  // namespace cofre::image
