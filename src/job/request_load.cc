#include "job/request_load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "io/sync.h"
#include "job/job_control.h"

namespace cofre::job {
namespace {

// So that offset_of_request() stays below 2^64.
constexpr uint64_t kLargestSpanRequests = uint64_t{1} << 32;

void check_load(const block::Device& device, const RequestLoad& load) {
  const uint64_t alignment = device.limits().request_alignment;
  const bool whole = load.request_bytes > 0 && load.request_bytes % alignment == 0 && load.step_bytes > 0 &&
                     load.step_bytes % load.request_bytes == 0 && load.span_bytes % load.request_bytes == 0;
  if (!whole || load.in_flight == 0 || load.span_bytes == 0 || load.span_bytes > device.length_bytes())
    fail(ErrorKind::kInvalidArgument,
         "'{}': requests of {} bytes every {} bytes of {} do not fit a device of {} bytes with requests of "
         "multiples of {}",
         device.name(), load.request_bytes, load.step_bytes, load.span_bytes, device.length_bytes(),
         alignment);
  if (load.span_bytes / load.request_bytes > kLargestSpanRequests)
    fail(ErrorKind::kLimit, "'{}': more than {} requests of {} bytes: take larger ones", device.name(),
         kLargestSpanRequests, load.request_bytes);
}

void fill_without_pattern(Bytes bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  while (!bytes.empty()) {
    const uint64_t word = random();
    const size_t count = std::min(bytes.size(), sizeof word);
    std::memcpy(bytes.data(), &word, count);
    bytes = bytes.subspan(count);
  }
}

// One load. Lives in run_requests_on()'s frame; its workers run on all lanes.
class LoadJob {
 public:
  LoadJob(block::Device& device, const RequestLoad& load)
      : device_(device),
        load_(load),
        control_("the measurement", load.count * load.request_bytes, load.progress) {}

  io::task<double> run(const std::vector<io::Reactor*>& lanes) {
    std::vector<AlignedBuffer> buffers = make_buffers();
    const auto start = std::chrono::steady_clock::now();
    io::TaskGroup group;
    for (unsigned i = 0; i < load_.in_flight; ++i)
      group.spawn_on(*lanes[i % lanes.size()], work(buffers[i].bytes()));
    co_await group.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    control_.finish();
    co_return took.count();
  }

 private:
  // Touched before the clock starts, whatever they are for.
  std::vector<AlignedBuffer> make_buffers() const {
    std::vector<AlignedBuffer> buffers;
    for (unsigned i = 0; i < load_.in_flight; ++i) {
      AlignedBuffer& buffer = buffers.emplace_back(load_.request_bytes);
      fill_without_pattern(buffer.bytes(), i + 1);
    }
    return buffers;
  }

  io::task<void> work(Bytes buffer) {
    std::exception_ptr failure;
    try {
      co_await send(buffer);
    } catch (...) {
      failure = std::current_exception();
    }
    if (!failure) co_return;
    control_.stop();
    std::rethrow_exception(failure);
  }

  io::task<void> send(Bytes buffer) {
    while (!control_.stopped()) {
      // Where transfers complete without waiting nobody else on this lane would ever get to run.
      co_await io::yield();
      const uint64_t number = next_.fetch_add(1, std::memory_order_relaxed);
      if (number >= load_.count) co_return;
      const uint64_t offset = offset_of_request(load_, number);
      if (load_.write) {
        co_await device_.write(offset, buffer);
      } else {
        co_await device_.read(offset, buffer);
      }
      control_.advance(load_.request_bytes);
    }
  }

  block::Device& device_;
  const RequestLoad& load_;
  JobControl control_;
  std::atomic<uint64_t> next_ = 0;
};

}  // namespace

uint64_t offset_of_request(const RequestLoad& load, uint64_t number) noexcept {
  const uint64_t requests = load.span_bytes / load.request_bytes;
  const uint64_t step = load.step_bytes / load.request_bytes % requests;
  return number % requests * step % requests * load.request_bytes;
}

uint64_t scattering_step(uint64_t span_bytes, uint64_t request_bytes) noexcept {
  constexpr double kGoldenRatio = 0.6180339887498949;  // the multiples of which lie most evenly, modulo 1
  const uint64_t requests = std::max<uint64_t>(1, span_bytes / request_bytes);
  auto step = std::max<uint64_t>(1, static_cast<uint64_t>(kGoldenRatio * static_cast<double>(requests)));
  while (std::gcd(step, requests) != 1) ++step;
  return step * request_bytes;
}

io::task<double> run_requests_on(std::vector<io::Reactor*> lanes, block::Device& device, RequestLoad load) {
  check_load(device, load);
  LoadJob job(device, load);
  co_return co_await job.run(lanes);
}

io::task<double> run_requests(io::Lanes& lanes, block::Device& device, RequestLoad load) {
  return run_requests_on(all_lanes(lanes), device, std::move(load));
}

}  // namespace cofre::job
