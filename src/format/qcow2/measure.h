// How large the file of a new qcow2 image becomes: computed, nothing is made. Any lane.
#pragma once

#include <cstdint>

#include "format/qcow2/create.h"

namespace cofre::qcow2 {

struct Measurement {
  uint64_t required_bytes = 0;         // with the data that there is
  uint64_t fully_allocated_bytes = 0;  // once the guest has written everywhere
};

// Of an image with these options and a disk of options.size_bytes. `data_bytes`: the clusters that data goes
// to, together. Tables count for the whole disk in both figures, and preallocation of data for the first.
// Throws Error kLimit for a disk that such an image cannot have.
Measurement measure(const CreateOptions& options, uint64_t data_bytes);

}  // namespace cofre::qcow2
