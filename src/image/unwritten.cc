#include "image/unwritten.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"

namespace cofre::image {
namespace {

constexpr uint64_t kRefcountBlockMask = 0x00fffffffffffe00;

// The counts of one block that are not zero. Counts below a byte are packed from the least significant bit
// on.
uint64_t nonzero_counts(ConstBytes block, uint64_t refcount_bits) {
  uint64_t count = 0;
  if (refcount_bits < 8) {
    const unsigned mask = (1u << refcount_bits) - 1;
    for (const std::byte byte : block) {
      for (unsigned shift = 0; shift < 8; shift += static_cast<unsigned>(refcount_bits))
        count += (static_cast<unsigned>(byte) >> shift & mask) != 0 ? 1 : 0;
    }
    return count;
  }
  const size_t step = refcount_bits / 8;
  for (size_t at = 0; at < block.size(); at += step) count += is_zero(block.subspan(at, step)) ? 0 : 1;
  return count;
}

// Counts clusters in use until `enough` are found.
io::task<uint64_t> clusters_in_use(qcow2::Image& image, uint64_t enough) {
  const qcow2::Header& header = image.header();
  const uint64_t cluster = header.cluster_bytes();
  const uint64_t file_length = image.file().length_bytes();
  AlignedBuffer table(header.refcount_table_clusters * cluster);
  co_await image.file().read(header.refcount_table_offset, table.bytes());
  AlignedBuffer block(cluster);
  uint64_t count = 0;
  for (uint64_t at = 0; at < table.size() && count < enough; at += sizeof(uint64_t)) {
    const uint64_t offset = load_be<uint64_t>(table.data() + at) & kRefcountBlockMask;
    if (offset == 0 || !range_within(offset, cluster, file_length)) continue;
    co_await image.file().read(offset, block.bytes());
    count += nonzero_counts(block.bytes(), header.refcount_bits());
  }
  co_return count;
}

}  // namespace

io::task<bool> has_unwritten_clusters(qcow2::Image& image, const block::Device& file) {
  const std::optional<uint64_t> given = file.allocated_bytes();
  if (!given) co_return false;
  const uint64_t with_space = *given / image.header().cluster_bytes();
  const uint64_t enough = std::max(with_space * 10 / 9, with_space + 2);
  co_return co_await clusters_in_use(image, enough) >= enough;
}

}  // namespace cofre::image
