// map() followed down a backing chain.
#include <algorithm>

#include "block/device.h"

namespace cofre::block {

io::task<ChainExtent> map_chain(Device& top, uint64_t offset, uint64_t length, Device* base) {
  ChainExtent found;
  Device* layer = &top;
  while (true) {
    found.extent = co_await layer->map(offset, length);
    found.layer = layer;
    if (found.extent.allocated) co_return found;
    length = found.extent.length_bytes;
    Device* below = layer->backing();
    if (below == nullptr || below == base) break;
    if (offset >= below->length_bytes()) {  // a shorter backing file reads as zero past its end
      found.extent.allocated = found.extent.zero = true;
      found.extent.data = false;
      co_return found;
    }
    length = std::min(length, below->length_bytes() - offset);
    layer = below;
    ++found.depth;
  }
  found.extent.length_bytes = length;
  found.extent.zero = layer->backing() == nullptr;
  co_return found;
}

}  // namespace cofre::block
