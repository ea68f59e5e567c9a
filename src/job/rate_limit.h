// Keeps the workers of a job under a number of bytes a second (-r).
#pragma once

#include <chrono>
#include <cstdint>

#include "io/task.h"
#include "job/job_control.h"

namespace cofre::job {

class RateLimit {
 public:
  // 0: no limit.
  RateLimit(uint64_t bytes_per_second, JobControl& control)
      : bytes_per_second_(bytes_per_second), control_(control) {}

  // To be awaited before `bytes` are written; any lane. Returns early when the job stops; throws Error
  // kCancelled.
  io::task<void> pace(uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;

  io::task<void> wait_at_home(uint64_t bytes);

  const uint64_t bytes_per_second_;
  JobControl& control_;
  Clock::time_point free_from_ = Clock::now();  // home lane: when what was let through is paid for
};

}  // namespace cofre::job
