#include "job/zero_runs.h"

#include <algorithm>

namespace cofre::job {
namespace {

// The block at the start of `bytes`.
Run first_block(ConstBytes bytes, uint64_t offset, uint64_t block_bytes, bool ends_target) noexcept {
  const uint64_t to_boundary = block_bytes - offset % block_bytes;
  const uint64_t length = std::min<uint64_t>(to_boundary, bytes.size());
  const bool whole = offset % block_bytes == 0 && (length == block_bytes || ends_target);
  return {length, whole && is_zero(bytes.first(length))};
}

}  // namespace

Run first_run(ConstBytes bytes, uint64_t offset, uint64_t block_bytes, bool ends_target) noexcept {
  Run run = first_block(bytes, offset, block_bytes, ends_target);
  while (run.length < bytes.size()) {
    const Run next = first_block(bytes.subspan(run.length), offset + run.length, block_bytes, ends_target);
    if (next.zero != run.zero) break;
    run.length += next.length;
  }
  return run;
}

}  // namespace cofre::job
