#include "job/rate_limit.h"

#include <algorithm>
#include <exception>

#include "io/reactor.h"

namespace cofre::job {
namespace {

constexpr std::chrono::nanoseconds kLongestSleep = std::chrono::milliseconds(50);

}  // namespace

io::task<void> RateLimit::wait_at_home(uint64_t bytes) {
  const std::chrono::duration<double> cost(static_cast<double>(bytes) /
                                           static_cast<double>(bytes_per_second_));
  const Clock::time_point start = std::max(Clock::now(), free_from_);
  free_from_ = start + std::chrono::duration_cast<Clock::duration>(cost);
  while (!control_.stopped()) {
    control_.poll();
    const std::chrono::nanoseconds left = start - Clock::now();
    if (left.count() <= 0) co_return;
    co_await io::sleep_ns(static_cast<uint64_t>(std::min(left, kLongestSleep).count()));
  }
}

io::task<void> RateLimit::pace(uint64_t bytes) {
  if (bytes_per_second_ == 0) co_return;
  io::Reactor& lane = *io::Reactor::current();
  co_await io::enter(control_.home());
  std::exception_ptr failure;
  try {
    co_await wait_at_home(bytes);
  } catch (...) {
    failure = std::current_exception();
  }
  co_await io::enter(lane);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace cofre::job
