#include "job/zero_runs.h"

#include <algorithm>

#include "base/checked.h"

namespace cofre::job {
namespace {

// The block at the start of `bytes`.
Run first_block(ConstBytes bytes, uint64_t offset, const ZeroBlocks& blocks) noexcept {
  const uint64_t to_boundary = blocks.block_bytes - offset % blocks.block_bytes;
  const uint64_t length = std::min<uint64_t>(to_boundary, bytes.size());
  const uint64_t end = offset + length;
  const bool usable = is_aligned(offset, blocks.grain_bytes) &&
                      (is_aligned(end, blocks.grain_bytes) || end == blocks.target_end);
  return {length, usable && is_zero(bytes.first(length))};
}

}  // namespace

Run first_run(ConstBytes bytes, uint64_t offset, const ZeroBlocks& blocks) noexcept {
  Run run = first_block(bytes, offset, blocks);
  while (run.length < bytes.size()) {
    const Run next = first_block(bytes.subspan(run.length), offset + run.length, blocks);
    if (next.zero != run.zero) break;
    run.length += next.length;
  }
  return run;
}

}  // namespace cofre::job
