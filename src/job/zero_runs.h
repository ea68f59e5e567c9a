// Finds the runs of zeros in bytes that were read.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace cofre::job {

struct Run {
  uint64_t length = 0;
  bool zero = false;
};

// The first run of `bytes`, which begin at `offset` of the target and are not empty. Looked at by blocks of
// `block_bytes` whose starts are multiples of it: a run is zero only in whole blocks, except that the last
// one may be cut short by the end of the target (`ends_target`).
Run first_run(ConstBytes bytes, uint64_t offset, uint64_t block_bytes, bool ends_target) noexcept;

}  // namespace cofre::job
