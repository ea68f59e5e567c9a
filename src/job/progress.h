// How a long job tells how far it is, and learns that it shall stop.
#pragma once

#include <cstdint>
#include <functional>

namespace cofre::job {

// Both functions may be empty, are called on the job's home lane only, and must not throw or block.
struct Progress {
  // Bytes of the guest's range done and in all; the first never falls. Called at the start, at most some ten
  // times a second, and at the end of a job that succeeded with both equal.
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> report;
  // Asked between chunks: true ends the job with Error kCancelled.
  std::function<bool()> cancelled;
};

}  // namespace cofre::job
