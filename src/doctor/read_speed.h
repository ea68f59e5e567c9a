// How fast an open image is read, and how fast its file alone. Home lane.
#pragma once

#include <cstdint>

#include "image/open.h"

namespace cofre::doctor {

// In bytes a second, on one lane, from the host's page cache: the best of several passes over the same bytes.
struct ReadSpeed {
  uint64_t measured_bytes = 0;  // 0: the image holds no data
  double content = 0;           // as the guest sees it: mapped, and decrypted where encrypted
  double file = 0;              // the same amount of the top's file as it rests
};

// Reads at most 64 MiB, a few times. The image is unlocked. Throws what reading throws.
io::task<ReadSpeed> measure_read_speed(image::OpenedImage& image);

}  // namespace cofre::doctor
