// What the workers of one job share: how far it is, and whether to stop.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "io/lanes.h"
#include "io/reactor.h"
#include "job/progress.h"

namespace cofre::job {

class JobControl {
 public:
  // `job` is what messages call it. Made on the home lane.
  JobControl(std::string job, uint64_t total_bytes, const Progress& progress);

  // Any lane. Counts bytes as done; on the home lane also poll()s.
  void advance(uint64_t bytes);
  // On the home lane: reports at a bounded rate, asks whether to go on. Throws Error kCancelled.
  void poll();
  // On the home lane, at the end of a job that succeeded.
  void finish() const;

  // Any lane: makes every worker end after its current chunk.
  void stop() noexcept { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }
  io::Reactor& home() const noexcept { return home_; }

 private:
  std::string job_;
  uint64_t total_;
  const Progress& progress_;
  io::Reactor& home_;
  std::atomic<uint64_t> done_ = 0;
  std::atomic<bool> stopped_ = false;
  std::chrono::steady_clock::time_point last_report_;  // home lane
  uint64_t reported_ = 0;                              // home lane: bytes
};

std::vector<io::Reactor*> all_lanes(io::Lanes& lanes);

// What a worker takes at a time, from devices that prefer that size: a megabyte, or whole clusters if they
// are larger, for a compressed one would be decompressed again for every piece.
uint64_t chunk_bytes_for(uint64_t preferred_bytes) noexcept;
// How many workers a job gets on `lanes`, each holding `worker_bytes` of buffers. `wanted` 0: a fit number.
unsigned worker_count(unsigned wanted, size_t lanes, uint64_t worker_bytes);
// The lane of a worker: one of every so many is at home, the others are spread over the other lanes. The home
// lane maps, and serves the metadata of images, for all of them; where transfers never wait, each worker that
// is busy there keeps the others waiting for a whole chunk.
size_t lane_of_worker(unsigned worker, size_t lanes) noexcept;

}  // namespace cofre::job
