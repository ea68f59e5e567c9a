// Random requests to a vhost-user block device, and how many a second it serves, with which latency. It is
// what a guest is to the device, without one: a driver with a number of requests in flight that sleeps until
// it is called.
#include <fmt/format.h>
#include <poll.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <deque>
#include <random>
#include <vector>

#include "base/units.h"
#include "export/vhost_front_end.h"

namespace cofre::vhost::testing {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string socket;
  unsigned depth = 32;
  double seconds = 3;
  uint32_t block_bytes = 4096;
  uint64_t span_bytes = 0;  // 0: the whole disk
  bool write = false;
  bool packed = false;
  bool fill = false;
};

struct Flight {
  BlockRequest request;
  Clock::time_point begun = {};
};

class Load {
 public:
  explicit Load(const Arguments& given)
      : given_(given), front_end_(FrontEnd::connect(given.socket)), memory_(64 * kMiB) {
    const uint64_t features = front_end_.negotiate(given.packed ? 0 : feature::kRingPacked);
    const bool packed = (features & feature::kRingPacked) != 0;
    front_end_.share(memory_);
    queue_.emplace(memory_, 128, DriverQueue::Features{packed, (features & feature::kEventIndex) != 0});
    sectors_ = load_le<uint64_t>(front_end_.config(0, 60).data());
    if (given.span_bytes != 0) sectors_ = std::min(sectors_, given.span_bytes / kSectorBytes);
    for (unsigned i = 0; i < given.depth; ++i) flights_.push_back({BlockRequest(memory_, given.block_bytes)});
    for (Flight& flight : flights_)
      for (uint32_t i = 0; i < given.block_bytes; ++i)
        flight.request.data()[i] = static_cast<std::byte>(random_());
    by_id_.resize(queue_->size());
    front_end_.set_up(0, *queue_, FrontEnd::first_base(packed));
  }

  // Every block once, so that nothing is a hole.
  void fill() {
    next_in_order_ = 0;
    run([this] { return *next_in_order_ + block_sectors() > sectors_; }, true);
    next_in_order_.reset();
  }

  void measure() {
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(given_.seconds));
    latencies_ns_.clear();
    latencies_ns_.reserve(1 << 24);
    const auto begin = Clock::now();
    run([end] { return Clock::now() >= end; }, given_.write);
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    std::ranges::sort(latencies_ns_);
    const auto at = [&](double part) {
      return latencies_ns_[static_cast<size_t>(part * static_cast<double>(latencies_ns_.size() - 1))] /
             1000.0;
    };
    fmt::print("{{\"iops\": {:.0f}, \"p50_us\": {:.1f}, \"p99_us\": {:.1f}}}\n",
               static_cast<double>(latencies_ns_.size()) / took, at(0.5), at(0.99));
  }

 private:
  uint64_t block_sectors() const { return given_.block_bytes / kSectorBytes; }

  uint64_t next_sector() {
    if (!next_in_order_) return random_() % (sectors_ / block_sectors()) * block_sectors();
    const uint64_t sector = *next_in_order_;
    *next_in_order_ += block_sectors();
    return sector;
  }

  template <typename Enough>
  void run(Enough enough, bool write) {
    std::vector<Flight*> idle;
    for (Flight& flight : flights_) idle.push_back(&flight);
    while (true) {
      const bool more = !enough();
      while (more && !idle.empty() && !enough()) {
        begin(*idle.back(), write);
        idle.pop_back();
      }
      if (queue_->publish()) queue_->kick();
      if (idle.size() == flights_.size()) return;
      wait();
      while (const auto used = queue_->take_used()) idle.push_back(&end(*used));
    }
  }

  void begin(Flight& flight, bool write) {
    const auto buffers =
        flight.request.make(write ? RequestType::kOut : RequestType::kIn, next_sector(), given_.block_bytes);
    flight.begun = Clock::now();
    by_id_[queue_->add(buffers, /*indirect=*/true).value()] = &flight;
  }

  Flight& end(UsedBuffer used) {
    Flight& flight = *by_id_[used.id];
    if (flight.request.status() != RequestStatus::kOk) throw std::runtime_error("a request failed");
    latencies_ns_.push_back(
        static_cast<uint32_t>(std::chrono::nanoseconds(Clock::now() - flight.begun).count()));
    return flight;
  }

  // As a guest's processor does it: an interrupt ends its sleep.
  void wait() {
    if (!queue_->request_calls()) return;
    pollfd waiting = {.fd = queue_->call_fd(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 30'000) != 1) throw std::runtime_error("the device does not answer");
    uint64_t calls = 0;
    if (::read(queue_->call_fd(), &calls, sizeof calls) < 0) throw std::runtime_error("read");
    queue_->suppress_calls();
  }

  const Arguments given_;
  FrontEnd front_end_;
  TestMemory memory_;
  std::optional<DriverQueue> queue_;
  uint64_t sectors_ = 0;
  std::mt19937_64 random_{1};
  std::optional<uint64_t> next_in_order_;
  std::deque<Flight> flights_;
  std::vector<Flight*> by_id_;
  std::vector<uint32_t> latencies_ns_;
};

}  // namespace
}  // namespace cofre::vhost::testing

int main(int argc, char** argv) {
  using namespace cofre::vhost::testing;
  Arguments given;
  CLI::App app("Random requests to a vhost-user block device: requests a second, latency in microseconds.");
  app.add_option("SOCKET", given.socket, "Where the device listens")->required();
  app.add_option("--depth", given.depth, "Requests in flight")->check(CLI::Range(1, 64));
  app.add_option("--seconds", given.seconds, "How long");
  app.add_option("--block", given.block_bytes, "Bytes of a request")->check(CLI::Range(512, 1 << 20));
  app.add_option("--span", given.span_bytes, "Bytes of the disk that are used");
  app.add_flag("--write", given.write, "Writes instead of reads");
  app.add_flag("--packed", given.packed, "A packed ring, if the device has it");
  app.add_flag("--fill", given.fill, "Write all of it first");
  CLI11_PARSE(app, argc, argv);
  try {
    Load load(given);
    if (given.fill) load.fill();
    load.measure();
  } catch (const std::exception& error) {
    fmt::print(stderr, "vhost_load: {}\n", error.what());
    return 1;
  }
  return 0;
}
