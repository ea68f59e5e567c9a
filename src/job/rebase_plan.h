// Cuts what rebase has to compare into chunks: the map step of the job. Home lane only.
#pragma once

#include <cstdint>
#include <optional>

#include "io/task.h"
#include "job/concatenation.h"
#include "job/job_control.h"

namespace cofre::job {

struct RebaseChunk {
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct RebaseRules {
  uint64_t chunk_bytes = 0;  // the most that is compared at once; chunks do not cross multiples of it
  uint64_t grain_bytes = 1;  // the overlay allocates whole ones of these; a divisor of chunk_bytes
  block::Device* new_backing = nullptr;  // null: none
  bool new_is_below = false;             // it is in the overlay's own chain
};

// Chunks cover what the overlay leaves to its backing file and what is not known to read the same, as zeros
// or from the same layer, above the new one. They consist of whole grains, or end with the overlay or with a
// run that it leaves to its backing file.
class RebasePlan {
 public:
  RebasePlan(block::Device& overlay, const RebaseRules& rules, JobControl& control);

  // False: the end.
  io::task<bool> next(RebaseChunk& chunk);

 private:
  struct Piece {
    uint64_t start = 0;
    uint64_t end = 0;
    bool same = false;     // nothing to do: of the overlay itself, or equal for sure
    bool overlay = false;  // decided by the overlay itself
  };

  io::task<Piece> piece_at(uint64_t offset);
  io::task<bool> reads_the_same(uint64_t offset, uint64_t& end);
  io::task<uint64_t> end_of_chunk(uint64_t start);
  void skip_to(uint64_t offset);

  block::Device& overlay_;
  const RebaseRules rules_;
  JobControl& control_;
  const Concatenation old_;
  const std::optional<Concatenation> new_;
  const uint64_t end_;
  uint64_t position_ = 0;
  Piece piece_;  // holds the offset last asked for, or is empty
};

}  // namespace cofre::job
