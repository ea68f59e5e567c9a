// Cuts what convert has to do into chunks: the map step of the job. Home lane only.
#pragma once

#include <cstdint>
#include <optional>

#include "io/task.h"
#include "job/concatenation.h"
#include "job/job_control.h"

namespace cofre::job {

struct ConvertChunk {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool zero = false;    // to be zeroed, not copied
  uint64_t ticket = 0;  // counts chunks from 0
};

// All offsets are the target's.
struct ConvertRules {
  uint64_t end = 0;          // where the job ends
  uint64_t chunk_bytes = 0;  // the most that is copied at once; chunks do not cross multiples of it
  uint64_t zero_grain =
      1;  // the target zeroes or leaves out whole grains (clusters); a divisor of chunk_bytes
  uint64_t request_grain = 1;     // the target's request_alignment; a divisor of zero_grain
  uint64_t base_grain = 1;        // what is left to the base is whole ones of these; a divisor of zero_grain
  uint64_t least_hole_bytes = 1;  // a shorter zero piece between data is read with it, in one request
  bool holes_are_data = false;    // zeros are copied as any bytes
  // Zeros are written before this offset only: behind it the target reads as zero already.
  uint64_t zeros_written_below = UINT64_MAX;
};

// Pieces that are zero, or left to the base, shrink to whole grains: what is beside belongs to the data next
// to it, so that no cluster is touched twice and no request is unaligned.
class ConvertPlan {
 public:
  ConvertPlan(const Concatenation& source, const ConvertRules& rules, JobControl& control)
      : source_(source), rules_(rules), control_(control) {}

  // False: the end.
  io::task<bool> next(ConvertChunk& chunk);
  uint64_t skipped_bytes() const noexcept { return skipped_; }

 private:
  enum class Content { kData, kZero, kBase };
  // A run of pieces of one content; only the runs of data longer than a chunk come in several.
  struct Run {
    uint64_t start = 0;
    uint64_t end = 0;
    Content content = Content::kData;
  };
  // The whole grains of a run, from `position` on; empty if they are not worth a request of their own.
  struct Inner {
    uint64_t start = 0;
    uint64_t end = 0;
    bool empty() const noexcept { return start >= end; }
  };

  io::task<Run> piece_at(uint64_t offset);
  io::task<void> load_run(uint64_t offset);
  Inner inner_of(const Run& run, uint64_t position) const noexcept;
  io::task<uint64_t> end_of_data(uint64_t start);
  void skip_to(uint64_t offset);

  const Concatenation& source_;
  const ConvertRules rules_;
  JobControl& control_;
  uint64_t position_ = 0;
  uint64_t ticket_ = 0;
  uint64_t skipped_ = 0;
  Run run_;                   // holds position_, or is empty
  std::optional<Run> ahead_;  // the piece behind run_, already looked up
};

}  // namespace cofre::job
