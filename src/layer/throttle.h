// Limits of speed that several devices may share: bytes and requests a second, read, written or in all.
//
// Each limit is a bucket that leaks at its rate. A request goes on its way when the bucket is not fuller than
// its capacity, and pours itself in; so a request larger than the capacity passes too, and those after it
// wait the longer. Requests pass in the order in which they come. Any lane.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "block/device.h"

namespace cofre::layer {

// One limit; units are bytes or requests.
struct ThrottleLimit {
  uint64_t average = 0;  // units a second; 0: no limit
  uint64_t burst = 0;    // units a second while a burst lasts; 0: bursts of a tenth of a second's average
  uint64_t burst_seconds = 1;  // how long a burst may last
};

struct ThrottleConfig {
  ThrottleLimit bytes_total = {};
  ThrottleLimit bytes_read = {};
  ThrottleLimit bytes_write = {};
  ThrottleLimit requests_total = {};
  ThrottleLimit requests_read = {};
  ThrottleLimit requests_write = {};
  uint64_t request_bytes = 0;  // a request counts as one for each so many bytes begun; 0: as one
};

class ThrottleGroup {
 public:
  explicit ThrottleGroup(const ThrottleConfig& config) noexcept;

  // Counts a request that comes at `now_ns` (of any clock that only goes forward) and gives how long it has
  // to wait.
  uint64_t admit(uint64_t now_ns, bool writes, uint64_t length_bytes) noexcept;

 private:
  struct Bucket {
    ThrottleLimit limit;
    double level = 0;        // units, leaking at the average
    double burst_level = 0;  // units, leaking at the burst's rate
    double wait_seconds(double elapsed_seconds) noexcept;
  };

  std::mutex mutex_;  // over all below
  // Total, read, write.
  std::array<Bucket, 3> bytes_;
  std::array<Bucket, 3> requests_;
  uint64_t request_bytes_;
  uint64_t last_ns_ = 0;
};

// `group` may be shared with other devices.
std::unique_ptr<block::Device> make_throttle(std::unique_ptr<block::Device> inner,
                                             std::shared_ptr<ThrottleGroup> group);

}  // namespace cofre::layer
