// A load of equal requests on a device, with many in flight on all lanes: what a busy guest sends. For
// measurements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "block/device.h"
#include "io/lanes.h"
#include "job/progress.h"

namespace cofre::job {

// Request number n goes to (start_bytes + n * step_bytes) % span_bytes. All are multiples of the device's
// request_alignment. A request that would pass the span's end is an error when its turn comes: Error kIo.
struct RequestLoad {
  bool write = false;                               // false: reads
  std::optional<std::byte> pattern = std::nullopt;  // that writes consist of; none: bytes without a pattern
  uint64_t request_bytes = 4096;
  uint64_t step_bytes = 4096;  // request_bytes: one after the other
  uint64_t start_bytes = 0;
  uint64_t span_bytes = 0;  // at most the device's length
  uint64_t count = 0;
  uint64_t flush_every = 0;    // a flush after so many requests; 0: none
  bool drain_to_flush = true;  // a flush waits for all requests before it, and those behind it wait for it
  unsigned in_flight = 16;
  Progress progress = {};
};

// Where request `number` of a load that keeps the rules goes.
uint64_t offset_of_request(const RequestLoad& load, uint64_t number) noexcept;

// A step with which requests are scattered: each meets a place far from those of the ones before it, and all
// of `span_bytes` is met once before any of it is met again. Multiples of `request_bytes`.
uint64_t scattering_step(uint64_t span_bytes, uint64_t request_bytes) noexcept;

// Runs on the home lane of `lanes`; gives the seconds from the first request to the end of the last. Does not
// flush at the end. The first error of the device stops everything and is thrown. Cancelled: Error
// kCancelled. Throws Error kInvalidArgument for a load that breaks the rules above.
io::task<double> run_requests(io::Lanes& lanes, block::Device& device, RequestLoad load);
// The same with the home lane current and others given. `lanes[0]` is home.
io::task<double> run_requests_on(std::vector<io::Reactor*> lanes, block::Device& device, RequestLoad load);

}  // namespace cofre::job
