// Reads tables and clusters of a file that may end within its last cluster.
#pragma once

#include "base/checked.h"
#include "block/device.h"

namespace cofre::qcow2 {

io::task<void> read_across_end(block::Device& file, uint64_t offset, Bytes destination);

// What lies past the end of the file reads as zero. Any lane.
inline io::task<void> read_padded(block::Device& file, uint64_t offset, Bytes destination) {
  if (range_within(offset, destination.size(), file.length_bytes())) return file.read(offset, destination);
  return read_across_end(file, offset, destination);
}

}  // namespace cofre::qcow2
