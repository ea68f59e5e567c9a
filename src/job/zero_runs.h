// Finds the runs of zeros in bytes that were read.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace cofre::job {

struct Run {
  uint64_t length = 0;
  bool zero = false;
};

// How zeros are looked for: by blocks whose starts are multiples of their size. A block cut short by the end
// of the bytes (beside a hole, say) counts too, if both its ends are multiples of the grain, or it ends where
// the target does.
struct ZeroBlocks {
  uint64_t block_bytes;
  uint64_t grain_bytes;  // a divisor of block_bytes, a power of two
  uint64_t target_end;
};

// The first run of `bytes`, which begin at `offset` of the target and are not empty.
Run first_run(ConstBytes bytes, uint64_t offset, const ZeroBlocks& blocks) noexcept;

}  // namespace cofre::job
