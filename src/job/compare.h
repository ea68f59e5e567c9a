// Compares what readers of two devices would see, on all lanes at once.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "block/device.h"
#include "io/lanes.h"
#include "job/progress.h"

namespace cofre::job {

struct CompareOptions {
  // Lengths must be equal, and what one device has allocated (anywhere in its backing chain), the other must
  // too.
  bool strict = false;
  unsigned parallel = 0;  // chunks in flight; 0: chosen by the number of lanes
  Progress progress = {};
};

enum class CompareOutcome {
  kIdentical,           // equal; where one device is longer, the rest of it reads as zero
  kContentMismatch,     // at `offset` the contents differ, or the longer device is not zero
  kAllocationMismatch,  // strict: at `offset` one device has allocated bytes and the other not
  kSizeMismatch,        // strict: the lengths differ (nothing was compared)
};

struct CompareResult {
  CompareOutcome outcome = CompareOutcome::kIdentical;
  uint64_t offset = 0;  // of the first mismatch in the order of offsets
  bool sizes_differ =
      false;  // qemu-img warns of it when not strict, unless a mismatch within the common length was found
};

// Thrown where a device could not say what is allocated (qemu-img compare: exit status 3; any other Error:
// 4).
class MapFailed : public Error {
 public:
  explicit MapFailed(const Error& cause) : Error(cause) {}
};

// Runs on the home lane of `lanes`. Reads only where one of the two may differ: where both read as zero for
// sure, nothing. Throws Error; cancelled: kCancelled.
io::task<CompareResult> compare(io::Lanes& lanes, block::Device& a, block::Device& b,
                                const CompareOptions& options);

// The same on given lanes; see convert_on().
io::task<CompareResult> compare_on(std::vector<io::Reactor*> lanes, block::Device& a, block::Device& b,
                                   const CompareOptions& options);

}  // namespace cofre::job
