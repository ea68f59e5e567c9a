// The clusters that persistent dirty bitmaps occupy. Source: qcow2 specification, "Bitmaps".
#pragma once

#include "format/qcow2/check_context.h"

namespace cofre::qcow2 {

// Adds the clusters of the bitmap directory, of the bitmap tables and of the bitmaps' bits to `references`.
// Whether there are any: a directory that cannot be read has none, and a repair drops it.
io::task<bool> reference_bitmaps(CheckContext& context, RangeSum& references);

}  // namespace cofre::qcow2
