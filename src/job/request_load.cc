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

void check_load(const block::Device& device, const RequestLoad& load) {
  const uint64_t alignment = device.limits().request_alignment;
  const auto whole = [&](uint64_t bytes) { return bytes % alignment == 0; };
  const bool aligned = whole(load.request_bytes) && whole(load.step_bytes) && whole(load.start_bytes) &&
                       (whole(load.span_bytes) || load.span_bytes == device.length_bytes());
  if (!aligned || load.in_flight == 0 || load.span_bytes == 0 || load.span_bytes > device.length_bytes())
    fail(ErrorKind::kInvalidArgument,
         "'{}': requests of {} bytes every {} bytes of {} do not fit a device of {} bytes with requests of "
         "multiples of {}",
         device.name(), load.request_bytes, load.step_bytes, load.span_bytes, device.length_bytes(),
         alignment);
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
    const bool in_rounds = load_.flush_every > 0 && load_.drain_to_flush;
    const uint64_t round = in_rounds ? load_.flush_every : std::max<uint64_t>(load_.count, 1);
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t first = 0; first < load_.count && !control_.stopped(); first += round) {
      next_ = first;
      round_end_ = std::min(load_.count, first + round);
      co_await send_round(lanes, buffers);
      if (in_rounds && round_end_ == first + round) co_await device_.flush();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    control_.finish();
    co_return took.count();
  }

 private:
  io::task<void> send_round(const std::vector<io::Reactor*>& lanes, std::vector<AlignedBuffer>& buffers) {
    io::TaskGroup group;
    for (size_t i = 0; i < buffers.size(); ++i)
      group.spawn_on(*lanes[i % lanes.size()], work(buffers[i].bytes().first(load_.request_bytes)));
    co_await group.join();
  }

  // Touched before the clock starts, whatever they are for.
  std::vector<AlignedBuffer> make_buffers() const {
    std::vector<AlignedBuffer> buffers;
    for (unsigned i = 0; i < std::min<uint64_t>(load_.in_flight, load_.count); ++i) {
      AlignedBuffer& buffer = buffers.emplace_back(std::max<uint64_t>(load_.request_bytes, 1));
      if (load_.pattern) {
        std::ranges::fill(buffer.bytes(), *load_.pattern);
      } else {
        fill_without_pattern(buffer.bytes(), i + 1);
      }
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
      if (number >= round_end_) co_return;
      const uint64_t offset = offset_of_request(load_, number);
      if (load_.request_bytes > load_.span_bytes - offset)
        fail(ErrorKind::kIo, "'{}': Input/output error: {} bytes at offset {} pass the end at {}",
             device_.name(), load_.request_bytes, offset, load_.span_bytes);
      if (load_.write) {
        co_await device_.write(offset, buffer);
      } else {
        co_await device_.read(offset, buffer);
      }
      control_.advance(load_.request_bytes);
      const bool flush =
          load_.flush_every > 0 && !load_.drain_to_flush && (number + 1) % load_.flush_every == 0;
      if (flush) co_await device_.flush();
    }
  }

  block::Device& device_;
  const RequestLoad& load_;
  JobControl control_;
  std::atomic<uint64_t> next_ = 0;
  uint64_t round_end_ = 0;  // changes between rounds only
};

}  // namespace

uint64_t offset_of_request(const RequestLoad& load, uint64_t number) noexcept {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((load.start_bytes + Wide{number} * load.step_bytes) % load.span_bytes);
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
