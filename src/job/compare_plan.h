// Cuts what compare has to read into chunks: the map step of the job. Home lane only.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>

#include "io/task.h"
#include "job/compare.h"
#include "job/concatenation.h"
#include "job/job_control.h"

namespace cofre::job {

struct CompareChunk {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool read_a = false;  // else it reads as zero; one of the two is true
  bool read_b = false;
};

// Why comparing stops before the end: at `offset`, in the order of offsets.
struct CompareStop {
  uint64_t offset = 0;
  CompareOutcome outcome = CompareOutcome::kIdentical;
  std::exception_ptr failure = nullptr;  // set: an error instead of an outcome
};

class ComparePlan {
 public:
  // Compares [0, end) in chunks that do not cross multiples of `chunk_bytes`.
  ComparePlan(const Concatenation& a, const Concatenation& b, uint64_t end, uint64_t chunk_bytes, bool strict,
              JobControl& control)
      : a_(a), b_(b), end_(end), chunk_bytes_(chunk_bytes), strict_(strict), control_(control) {}

  // False: the end, or stop() is set. Throws only kCancelled.
  io::task<bool> next(CompareChunk& chunk);
  // What the maps alone showed; everything before it was handed out.
  const std::optional<CompareStop>& stop() const noexcept { return stop_; }

 private:
  // Bytes that the maps of both say the same of, from the offset asked for on; chunk.length 0: there are
  // none.
  io::task<CompareChunk> piece_at(uint64_t offset);
  // Whether strict comparing takes both for the same: also, as qemu-img does, in whether the bytes rest
  // somewhere as they are (compressed and encrypted ones do not).
  bool alike(const block::Extent& a, const block::Extent& b) const noexcept;

  const Concatenation& a_;
  const Concatenation& b_;
  const uint64_t end_;
  const uint64_t chunk_bytes_;
  const bool strict_;
  JobControl& control_;
  uint64_t position_ = 0;
  Concatenation::Piece piece_a_;  // holds the offset last looked up, or is empty
  Concatenation::Piece piece_b_;
  std::optional<CompareStop> stop_;
};

}  // namespace cofre::job
