// The parts of `info` that images of other programs tell. Any lane.
#pragma once

#include "format/foreign/image.h"
#include "image/describe.h"

namespace cofre::image {

void describe_foreign(foreign::Image& image, ImageInfo& info);

}  // namespace cofre::image
