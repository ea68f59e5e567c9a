// A raw image whose file ends within a sector: its last sector counts as whole, and reads as zero past the
// file's end.
#pragma once

#include <memory>

#include "block/device.h"

namespace cofre::image {

// Gives `file` itself if its length is a multiple of 512. A first write into the padding lengthens the file
// to the whole sector. Any lane; the errors of `file`.
std::unique_ptr<block::Device> make_sector_padded(std::unique_ptr<block::Device> file);

}  // namespace cofre::image
