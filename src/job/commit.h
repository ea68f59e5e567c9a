// Writes what the layers of a backing chain above one of its images decide into that image.
//
// The image grows to the length of the top first, if it is shorter. Until the job has flushed it, and after,
// every layer of the chain shows through the top what it showed before: the job may end, fail or lose power
// at any moment. Layers between the top and the base, read by themselves, show other bytes afterwards.
#pragma once

#include <cstdint>
#include <vector>

#include "block/device.h"
#include "io/lanes.h"
#include "job/convert.h"
#include "job/progress.h"

namespace cofre::job {

struct CommitOptions {
  uint64_t bytes_per_second = 0;  // 0: no limit
  unsigned parallel = 0;          // chunks in flight; 0: chosen by the number of lanes
  Progress progress = {};
};

// `base` is in the chain below `top`. Runs on the home lane of `lanes`. What is committed is durable when it
// returns; neither device is closed. Throws what the devices throw, kCancelled.
io::task<ConvertStats> commit(io::Lanes& lanes, block::Device& top, block::Device& base,
                              CommitOptions options);
io::task<ConvertStats> commit_on(std::vector<io::Reactor*> lanes, block::Device& top, block::Device& base,
                                 CommitOptions options);

}  // namespace cofre::job
