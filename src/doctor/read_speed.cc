#include "doctor/read_speed.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/aligned_buffer.h"

namespace cofre::doctor {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kRequestBytes = kMiB;
constexpr uint64_t kMostBytes = 64 * kMiB;
constexpr uint64_t kMostExtents = 10'000;  // that are looked at to find data
constexpr std::chrono::milliseconds kEnough{200};

struct Range {
  uint64_t offset = 0;
  uint64_t length_bytes = 0;
};

// Where the device has data, in requests.
io::task<std::vector<Range>> data_ranges(block::Device& device) {
  std::vector<Range> ranges;
  uint64_t found = 0;
  uint64_t offset = 0;
  for (uint64_t i = 0; i < kMostExtents && offset < device.length_bytes() && found < kMostBytes; ++i) {
    const uint64_t ask = std::min(kRequestBytes, device.length_bytes() - offset);
    const block::ChainExtent extent = co_await block::map_chain(device, offset, ask);
    if (extent.extent.data) {
      ranges.push_back({offset, extent.extent.length_bytes});
      found += extent.extent.length_bytes;
    }
    offset += extent.extent.length_bytes;
  }
  co_return ranges;
}

std::vector<Range> ranges_from_start(uint64_t length_bytes) {
  std::vector<Range> ranges;
  for (uint64_t offset = 0; offset < length_bytes; offset += kRequestBytes)
    ranges.push_back({offset, std::min(kRequestBytes, length_bytes - offset)});
  return ranges;
}

uint64_t total_bytes(const std::vector<Range>& ranges) {
  uint64_t total = 0;
  for (const Range& range : ranges) total += range.length_bytes;
  return total;
}

io::task<void> read_all(block::Device& device, const std::vector<Range>& ranges, Bytes buffer) {
  for (const Range& range : ranges) co_await device.read(range.offset, buffer.first(range.length_bytes));
}

io::task<double> best_speed(block::Device& device, const std::vector<Range>& ranges, Bytes buffer) {
  co_await read_all(device, ranges, buffer);  // into the page cache
  const Clock::time_point start = Clock::now();
  std::chrono::duration<double> best{1e9};
  while (Clock::now() - start < kEnough) {
    const Clock::time_point before = Clock::now();
    co_await read_all(device, ranges, buffer);
    best = std::min<std::chrono::duration<double>>(best, Clock::now() - before);
  }
  co_return static_cast<double>(total_bytes(ranges)) / best.count();
}

}  // namespace

io::task<ReadSpeed> measure_read_speed(image::OpenedImage& image) {
  const std::vector<Range> ranges = co_await data_ranges(*image.device);
  ReadSpeed speed{.measured_bytes = total_bytes(ranges)};
  block::Device& file = *image.top().file;
  const std::vector<Range> of_file = ranges_from_start(std::min(speed.measured_bytes, file.length_bytes()));
  if (ranges.empty() || of_file.empty()) co_return ReadSpeed{};
  AlignedBuffer buffer(kRequestBytes);
  speed.content = co_await best_speed(*image.device, ranges, buffer.bytes());
  speed.file = co_await best_speed(file, of_file, buffer.bytes());
  co_return speed;
}

}  // namespace cofre::doctor
