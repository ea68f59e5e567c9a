// Makes an overlay independent of its backing file, or ready for another one: what it leaves to the present
// backing file, and what the new one would show otherwise, is written into the overlay.
//
// Map: the home lane walks the overlay's and both backing files' extents and leaves out what is the same for
// sure. Move: workers spread over the lanes read both, compare them by the overlay's clusters, and write what
// differs, zeros as zeros. The overlay shows the same bytes before, meanwhile and after; naming the new
// backing file is for the caller, when all is durable (qcow2::Image::change_backing).
#pragma once

#include <cstdint>
#include <vector>

#include "base/units.h"
#include "block/device.h"
#include "io/lanes.h"
#include "job/progress.h"

namespace cofre::job {

struct RebaseOptions {
  block::Device* new_backing = nullptr;  // null: none
  bool new_is_below = false;             // new_backing is a layer of the overlay's own chain
  // What the overlay allocates at once (a power of two, at most 2 MiB): whole ones of these are written.
  uint64_t grain_bytes = 64 * kKiB;
  bool compressed = false;  // the overlay stores compressed what that makes shorter
  unsigned parallel = 0;    // chunks in flight; 0: chosen by the number of lanes
  Progress progress = {};
};

struct RebaseStats {
  uint64_t bytes_compared = 0;
  uint64_t bytes_written = 0;  // as bytes
  uint64_t bytes_zeroed = 0;
};

// Runs on the home lane of `lanes`. Does not flush or close. Throws what the devices throw, kCancelled, and
// kUnsupported for an overlay that cannot compress and shall.
io::task<RebaseStats> rebase(io::Lanes& lanes, block::Device& overlay, RebaseOptions options);
io::task<RebaseStats> rebase_on(std::vector<io::Reactor*> lanes, block::Device& overlay,
                                RebaseOptions options);

}  // namespace cofre::job
