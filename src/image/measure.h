// How large a new image becomes that is made with given options, from nothing or from an image. Home lane.
#pragma once

#include <optional>

#include "image/create_options.h"
#include "image/open.h"

namespace cofre::image {

struct FileSizes {
  uint64_t required_bytes = 0;
  uint64_t fully_allocated_bytes = 0;
  std::optional<uint64_t> bitmaps_bytes;  // copying the source's dirty bitmaps takes so much more
};

// Of an empty image.
FileSizes measure_new(Format format, const CreateSettings& settings, uint64_t size_bytes);
// Of one that `source` is converted to; the source may be locked. Throws Error.
io::task<FileSizes> measure_conversion(Format format, const CreateSettings& settings, OpenedImage& source);

}  // namespace cofre::image
