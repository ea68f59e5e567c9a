// A file that takes what clients write in place of the image they see, and that vanishes with the process:
// qemu-nbd --snapshot.
#pragma once

#include "image/open.h"

namespace cofre::tool {

// The overlay lies in the folder for temporary files ($TMPDIR, else /var/tmp) without a name, and is
// encrypted with a key that nobody knows: the image below may be. `policy` is that of the overlay; the image
// is opened for reading only. policy.secrets is needed. Throws Error.
io::task<image::OpenedImage> open_temporary_overlay(image::ImageName name, image::OpenPolicy policy);

}  // namespace cofre::tool
