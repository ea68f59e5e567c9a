// The warning before a raw image is written whose format nobody named.
#pragma once

#include "image/open.h"

namespace cofre::tool {

// Says nothing of other images.
void warn_of_probed_raw(const image::OpenedImage& image);

}  // namespace cofre::tool
