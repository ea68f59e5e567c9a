#include "format/qcow2/read_padded.h"

#include <algorithm>

namespace cofre::qcow2 {

io::task<void> read_across_end(block::Device& file, uint64_t offset, Bytes destination) {
  const uint64_t end = file.length_bytes();
  const uint64_t there = offset < end ? std::min<uint64_t>(destination.size(), end - offset) : 0;
  if (there > 0) co_await file.read(offset, destination.first(there));
  std::ranges::fill(destination.subspan(there), std::byte{0});
}

}  // namespace cofre::qcow2
