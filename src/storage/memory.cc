#include "storage/memory.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "io/reactor.h"

namespace cofre::storage {
namespace {

constexpr uint64_t kLargestBytes = 4 * kGiB;

void place(std::vector<std::byte>& content, uint64_t offset, ConstBytes source) {
  if (offset + source.size() > content.size()) content.resize(offset + source.size());
  std::memcpy(content.data() + offset, source.data(), source.size());
}

}  // namespace

MemoryDevice::MemoryDevice(uint64_t length, std::string name)
    : name_(std::move(name)), length_(length), content_(length) {
  limits_.growable = true;
  limits_.grows_with_zeroes = true;
}

io::task<void> MemoryDevice::read(uint64_t offset, Bytes destination) {
  co_await io::yield();
  const std::lock_guard lock(mutex_);
  const uint64_t there =
      offset < content_.size() ? std::min<uint64_t>(destination.size(), content_.size() - offset) : 0;
  if (there > 0) std::memcpy(destination.data(), content_.data() + offset, there);
  if (there < destination.size()) std::memset(destination.data() + there, 0, destination.size() - there);
}

void MemoryDevice::check_writable(uint64_t offset, uint64_t length) const {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name_);
  if (!range_within(offset, length, kLargestBytes))
    fail(ErrorKind::kNoSpace, "'{}': {} bytes at offset {} do not fit in memory", name_, length, offset);
}

void MemoryDevice::apply(uint64_t offset, ConstBytes source) {
  if (source.empty()) return;
  const std::lock_guard lock(mutex_);
  place(content_, offset, source);
  length_.store(content_.size(), std::memory_order_release);
  if (recording_) pending_.push_back({next_number_++, offset, {source.begin(), source.end()}});
}

io::task<void> MemoryDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  co_await io::yield();
  check_writable(offset, source.size());
  apply(offset, source);
  if (flags.fua) co_await flush();
}

io::task<void> MemoryDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  co_await io::yield();
  check_writable(offset, length);
  apply(offset, std::vector<std::byte>(length));
  if (flags.fua) co_await flush();
}

io::task<void> MemoryDevice::discard(uint64_t offset, uint64_t length) {
  co_await io::yield();
  check_writable(0, 0);
  const uint64_t end = length_bytes();
  if (offset < end) apply(offset, std::vector<std::byte>(std::min(length, end - offset)));
}

io::task<void> MemoryDevice::flush() {
  // Only what was written before the flush began is promised; a harsh disk gives no more.
  uint64_t promised = 0;
  {
    const std::lock_guard lock(mutex_);
    promised = next_number_;
  }
  co_await io::yield();
  settle(promised);
}

void MemoryDevice::settle(uint64_t number) {
  const std::lock_guard lock(mutex_);
  while (!pending_.empty() && pending_.front().number < number) {
    const Change& change = pending_.front();
    if (change.resize) {
      durable_.resize(change.offset);
    } else {
      place(durable_, change.offset, change.bytes);
    }
    pending_.pop_front();
  }
}

io::task<block::Extent> MemoryDevice::map(uint64_t offset, uint64_t length) {
  co_return block::Extent{
      .length_bytes = length, .allocated = true, .data = true, .host_offset = offset, .host_name = name_};
}

io::task<void> MemoryDevice::resize(uint64_t length) {
  co_await io::yield();
  check_writable(0, length);
  const std::lock_guard lock(mutex_);
  content_.resize(length);
  length_.store(length, std::memory_order_release);
  if (recording_) pending_.push_back({next_number_++, length, {}, /*resize=*/true});
}

io::task<void> MemoryDevice::close() {
  co_await flush();
}

void MemoryDevice::start_recording() {
  recording_ = true;
  durable_ = content_;
  pending_.clear();
}

std::unique_ptr<MemoryDevice> MemoryDevice::after_power_loss(std::mt19937_64& random) const {
  auto survivor = std::make_unique<MemoryDevice>(0, name_ + " after power loss");
  const std::lock_guard lock(mutex_);
  survivor->content_ = durable_;
  for (const Change& write : pending_) {
    const uint64_t fate = random() % 4;  // nothing, everything, or each sector by itself
    if (fate == 0) continue;
    if (write.resize) {
      survivor->content_.resize(write.offset);
      continue;
    }
    for (size_t at = 0; at < write.bytes.size();) {
      const size_t sector_end = kSectorBytes - (write.offset + at) % kSectorBytes + at;
      const size_t end = std::min(sector_end, write.bytes.size());
      if (fate == 1 || random() % 2 == 0)
        place(survivor->content_, write.offset + at, ConstBytes(write.bytes).subspan(at, end - at));
      at = end;
    }
  }
  survivor->length_ = survivor->content_.size();
  return survivor;
}

}  // namespace cofre::storage
