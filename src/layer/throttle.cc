#include "layer/throttle.h"

#include <algorithm>
#include <chrono>

#include "base/checked.h"
#include "io/reactor.h"
#include "layer/filter.h"

namespace cofre::layer {
namespace {

constexpr double kNanoseconds = 1e9;
constexpr double kLongestWaitSeconds = 1e9;
constexpr double kShortBurst = 0.1;  // seconds of the rate that may pass at once

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

class ThrottleDevice final : public Filter {
 public:
  ThrottleDevice(std::unique_ptr<block::Device> below, std::shared_ptr<ThrottleGroup> group)
      : Filter(std::move(below)), group_(std::move(group)) {}

  io::task<void> read(uint64_t offset, Bytes destination) override {
    co_await wait(/*writes=*/false, destination.size());
    co_await inner().read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    co_await wait(/*writes=*/true, source.size());
    co_await inner().write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    co_await wait(/*writes=*/true, length);
    co_await inner().write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    co_await wait(/*writes=*/true, length);
    co_await inner().discard(offset, length);
  }

 private:
  io::task<void> wait(bool writes, uint64_t length) {
    const uint64_t pause_ns = group_->admit(now_ns(), writes, length);
    if (pause_ns > 0) co_await io::sleep_ns(pause_ns);
  }

  std::shared_ptr<ThrottleGroup> group_;
};

}  // namespace

ThrottleGroup::ThrottleGroup(const ThrottleConfig& config) noexcept
    : bytes_{{{config.bytes_total}, {config.bytes_read}, {config.bytes_write}}},
      requests_{{{config.requests_total}, {config.requests_read}, {config.requests_write}}},
      request_bytes_(config.request_bytes) {}

double ThrottleGroup::Bucket::wait_seconds(double elapsed_seconds) noexcept {
  const auto average = static_cast<double>(limit.average);
  const auto burst = static_cast<double>(limit.burst);
  if (average == 0) return 0;
  level = std::max(0.0, level - elapsed_seconds * average);
  const double capacity =
      burst > 0 ? burst * static_cast<double>(limit.burst_seconds) : average * kShortBurst;
  double wait = std::max(0.0, (level - capacity) / average);
  if (burst > 0 && limit.burst_seconds > 1) {
    burst_level = std::max(0.0, burst_level - elapsed_seconds * burst);
    wait = std::max(wait, (burst_level - burst * kShortBurst) / burst);
  }
  return wait;
}

uint64_t ThrottleGroup::admit(uint64_t now, bool writes, uint64_t length_bytes) noexcept {
  const std::lock_guard lock(mutex_);
  const double elapsed =
      last_ns_ == 0 || now <= last_ns_ ? 0 : static_cast<double>(now - last_ns_) / kNanoseconds;
  last_ns_ = std::max(last_ns_, now);
  const auto bytes = static_cast<double>(length_bytes);
  const double requests =
      request_bytes_ == 0
          ? 1
          : static_cast<double>(std::max<uint64_t>(1, div_ceil(length_bytes, request_bytes_)));
  double wait = 0;
  for (size_t i = 0; i < bytes_.size(); ++i) {
    const bool concerned = i == 0 || (i == 2) == writes;
    for (auto [bucket, units] : {std::pair{&bytes_[i], bytes}, std::pair{&requests_[i], requests}}) {
      const double own = bucket->wait_seconds(elapsed);
      if (!concerned) continue;
      wait = std::max(wait, own);
      bucket->level += units;
      bucket->burst_level += units;
    }
  }
  return static_cast<uint64_t>(std::min(wait, kLongestWaitSeconds) * kNanoseconds);
}

std::unique_ptr<block::Device> make_throttle(std::unique_ptr<block::Device> inner,
                                             std::shared_ptr<ThrottleGroup> group) {
  return std::make_unique<ThrottleDevice>(std::move(inner), std::move(group));
}

}  // namespace cofre::layer
