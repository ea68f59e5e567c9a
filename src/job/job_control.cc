#include "job/job_control.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/units.h"

namespace cofre::job {
namespace {

// A short job is told in so many steps, a long one by the clock.
constexpr uint64_t kReportedSteps = 100;
constexpr auto kReportInterval = std::chrono::milliseconds(100);
constexpr uint64_t kBufferBudgetBytes = 64 * kMiB;
constexpr size_t kWorkersPerLane = 4;  // on all lanes but home

// One at home, and the full number on every other lane.
size_t workers_of_a_round(size_t lanes) noexcept {
  return 1 + kWorkersPerLane * (lanes - 1);
}

}  // namespace

JobControl::JobControl(std::string job, uint64_t total_bytes, const Progress& progress)
    : job_(std::move(job)),
      total_(total_bytes),
      progress_(progress),
      home_(*io::Reactor::current()),
      last_report_(std::chrono::steady_clock::now()) {
  if (progress_.report) progress_.report(0, total_);
}

void JobControl::advance(uint64_t bytes) {
  done_.fetch_add(bytes, std::memory_order_relaxed);
  if (io::Reactor::current() == &home_) poll();
}

void JobControl::poll() {
  if (progress_.cancelled && progress_.cancelled()) fail(ErrorKind::kCancelled, "{} was cancelled", job_);
  if (!progress_.report) return;
  const uint64_t done = std::min(done_.load(std::memory_order_relaxed), total_);
  const auto now = std::chrono::steady_clock::now();
  if (now - last_report_ < kReportInterval && done - reported_ <= total_ / kReportedSteps) return;
  last_report_ = now;
  reported_ = done;
  progress_.report(done, total_);
}

void JobControl::finish() const {
  if (progress_.report) progress_.report(total_, total_);
}

std::vector<io::Reactor*> all_lanes(io::Lanes& lanes) {
  std::vector<io::Reactor*> all;
  for (unsigned i = 0; i < lanes.count(); ++i) all.push_back(&lanes.lane(i));
  return all;
}

uint64_t chunk_bytes_for(uint64_t preferred_bytes) noexcept {
  constexpr uint64_t kLargestChunkBytes = 2 * kMiB;
  return std::max(kMiB, std::bit_floor(std::min(preferred_bytes, kLargestChunkBytes)));
}

unsigned worker_count(unsigned wanted, size_t lanes, uint64_t worker_bytes) {
  const uint64_t affordable = std::max<uint64_t>(1, kBufferBudgetBytes / worker_bytes);
  const uint64_t count = wanted != 0 ? wanted : std::max(kWorkersPerLane, workers_of_a_round(lanes));
  return static_cast<unsigned>(std::min(count, affordable));
}

size_t lane_of_worker(unsigned worker, size_t lanes) noexcept {
  const size_t place = worker % workers_of_a_round(lanes);
  return place == 0 ? 0 : 1 + (place - 1) % (lanes - 1);
}

}  // namespace cofre::job
