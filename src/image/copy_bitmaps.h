// Copies the persistent dirty bitmaps of one image to another. Any lane.
#pragma once

#include <string>
#include <vector>

#include "format/qcow2/bitmap_directory.h"
#include "image/open.h"

namespace cofre::image {

struct BitmapsToCopy {
  std::vector<qcow2::BitmapEntry> bitmaps;
  std::vector<std::string> skipped;  // names of inconsistent ones
};

// Those of the top of `source`. Throws Error kUnsupported where it has none ever, kInvalidArgument for an
// inconsistent one unless `skip_broken`.
BitmapsToCopy plan_bitmaps(const OpenedImage& source, bool skip_broken);

// The bitmaps of `target` note nothing of what is written before. Throws what add_bitmap() and merge_bitmap()
// throw (format/qcow2/bitmap_actions.h).
io::task<void> copy_bitmaps(const OpenedImage& source, const std::vector<qcow2::BitmapEntry>& bitmaps,
                            OpenedImage& target);

}  // namespace cofre::image
