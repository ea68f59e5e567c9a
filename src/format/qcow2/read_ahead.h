// Reads many tables of equal size while those read before are looked at.
#pragma once

#include <functional>
#include <string>

#include "base/aligned_buffer.h"
#include "block/device.h"
#include "io/reactor.h"
#include "io/task.h"

namespace cofre::qcow2 {

struct ReadAhead {
  block::Device& file;
  uint64_t item_bytes = 0;
  size_t count = 0;
  io::Reactor* lane = nullptr;  // reads there; null: on the caller's lane
};

// Where item `index` lies in the file; what the file does not have reads as zero.
using ItemOffset = std::function<uint64_t(size_t index)>;
// Sees item `index`; its bytes may be changed, and are valid until the returned task ends. `trouble`, if not
// empty, says why they could not be read.
using ItemVisit = std::function<io::task<void>(size_t index, Bytes item, const std::string& trouble)>;

// Visits all items in order, on the caller's lane. Items that lie side by side are read together, a few MiB
// at a time. Throws what `visit` throws.
io::task<void> read_ahead(ReadAhead what, ItemOffset offset_of, ItemVisit visit);

}  // namespace cofre::qcow2
