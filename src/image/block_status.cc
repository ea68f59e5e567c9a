#include "image/block_status.h"

#include <algorithm>

#include "base/units.h"
#include "image/unwritten.h"

namespace cofre::image {
namespace {

// Zeros that no layer holds, because the backing file ends before them.
io::task<bool> past_short_backing(block::ChainExtent found, uint64_t offset) {
  const block::Device* const backing = found.layer->backing();
  if (backing == nullptr || offset < backing->length_bytes()) co_return false;
  const block::Extent own = co_await found.layer->map(offset, found.extent.length_bytes);
  co_return !own.allocated;
}

}  // namespace

bool BlockStatus::continues(const BlockStatus& before) const {
  const bool adjacent = !offset || (before.offset && *before.offset + before.length == *offset);
  return depth == before.depth && present == before.present && zero == before.zero && data == before.data &&
         offset.has_value() == before.offset.has_value() && adjacent && file == before.file;
}

io::task<bool> BlockStatusReader::unwritten(uint32_t depth) {
  std::optional<bool>& known = unwritten_[depth];
  const Layer& layer = image_.chain[depth];
  if (!known) known = co_await has_unwritten_clusters(*layer.qcow2, *layer.file);
  co_return *known;
}

// What such storage does not say is not made up, although it reads as zero.
bool BlockStatusReader::is_bare_storage(uint32_t depth) const {
  if (depth >= image_.chain.size()) return false;
  const Layer& layer = image_.chain[depth];
  return layer.tells_nothing && layer.format == Format::kRaw;
}

// Where a host file has a hole below a mapped cluster, the guest reads zeros: the run ends where that
// changes.
io::task<void> BlockStatusReader::look_below(BlockStatus& status) {
  const Layer* const layer = status.depth < image_.chain.size() ? &image_.chain[status.depth] : nullptr;
  if (!status.data || status.zero || !status.offset || layer == nullptr || layer->qcow2 == nullptr) co_return;
  block::Device& storage = layer->data_file != nullptr ? *layer->data_file : *layer->file;
  const block::Extent below = co_await storage.map(*status.offset, status.length);
  const uint64_t length = below.length_bytes / kSectorBytes * kSectorBytes;
  if (length == 0) co_return;
  if (below.zero && !co_await unwritten(status.depth)) co_return;
  status.length = std::min(status.length, length);
  status.zero = below.zero;
}

io::task<BlockStatus> BlockStatusReader::at(uint64_t offset, uint64_t length) {
  const block::ChainExtent found = co_await block::map_chain(*image_.device, offset, length);
  BlockStatus status = {.start = offset,
                        .length = found.extent.length_bytes,
                        .depth = found.depth,
                        .present = found.extent.allocated,
                        .zero = found.extent.zero || !found.extent.allocated,
                        .data = found.extent.data && found.extent.allocated,
                        .offset = found.extent.host_offset,
                        .file = std::string(found.extent.host_name)};
  if (co_await past_short_backing(found, offset)) status.present = false;
  if (is_bare_storage(found.depth)) status.zero = found.extent.zero && found.extent.allocated;
  co_await look_below(status);
  co_return status;
}

}  // namespace cofre::image
