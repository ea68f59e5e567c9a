#include "storage/memory.h"

#include <algorithm>
#include <cstring>

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

MemoryDevice::MemoryDevice(uint64_t length, std::string name) : name_(std::move(name)), content_(length) {
  limits_.growable = true;
  limits_.grows_with_zeroes = true;
}

io::task<void> MemoryDevice::read(uint64_t offset, Bytes destination) {
  co_await io::yield();
  const uint64_t there = offset < content_.size() ? std::min<uint64_t>(destination.size(), content_.size() - offset) : 0;
  if (there > 0) std::memcpy(destination.data(), content_.data() + offset, there);
  if (there < destination.size()) std::memset(destination.data() + there, 0, destination.size() - there);
}

void MemoryDevice::apply(uint64_t offset, ConstBytes source) {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name_);
  if (offset > kLargestBytes || source.size() > kLargestBytes - offset)
    fail(ErrorKind::kNoSpace, "'{}': {} bytes at offset {} do not fit in memory", name_, source.size(), offset);
  place(content_, offset, source);
  if (recording_) pending_.push_back({offset, {source.begin(), source.end()}});
}

io::task<void> MemoryDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  co_await io::yield();
  apply(offset, source);
  if (flags.fua) co_await flush();
}

io::task<void> MemoryDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  co_await io::yield();
  apply(offset, std::vector<std::byte>(length));
  if (flags.fua) co_await flush();
}

io::task<void> MemoryDevice::discard(uint64_t offset, uint64_t length) {
  co_await io::yield();
  if (offset < content_.size()) apply(offset, std::vector<std::byte>(std::min<uint64_t>(length, content_.size() - offset)));
}

io::task<void> MemoryDevice::flush() {
  // Only what was written before the flush began is promised; a harsh disk gives no more.
  const size_t promised = pending_.size();
  co_await io::yield();
  for (size_t i = 0; i < std::min(promised, pending_.size()); ++i)
    place(durable_, pending_[i].offset, pending_[i].bytes);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(std::min(promised, pending_.size())));
}

io::task<block::Extent> MemoryDevice::map(uint64_t offset, uint64_t length) {
  co_return block::Extent{.length_bytes = length, .allocated = true, .data = true, .host_offset = offset, .host_name = name_};
}

io::task<void> MemoryDevice::resize(uint64_t length) {
  co_await io::yield();
  if (length > kLargestBytes) fail(ErrorKind::kNoSpace, "'{}': {} bytes do not fit in memory", name_, length);
  content_.resize(length);
  if (recording_ && length < durable_.size()) {
    durable_.resize(length);
    std::erase_if(pending_, [length](const PendingWrite& write) { return write.offset + write.bytes.size() > length; });
  }
}

io::task<void> MemoryDevice::close() { co_await flush(); }

void MemoryDevice::start_recording() {
  recording_ = true;
  durable_ = content_;
  pending_.clear();
}

std::unique_ptr<MemoryDevice> MemoryDevice::after_power_loss(std::mt19937_64& random) const {
  auto survivor = std::make_unique<MemoryDevice>(0, name_ + " after power loss");
  survivor->content_ = durable_;
  for (const PendingWrite& write : pending_) {
    const uint64_t fate = random() % 4;  // nothing, everything, or each sector by itself
    if (fate == 0) continue;
    for (size_t at = 0; at < write.bytes.size();) {
      const size_t sector_end = kSectorBytes - (write.offset + at) % kSectorBytes + at;
      const size_t end = std::min(sector_end, write.bytes.size());
      if (fate == 1 || random() % 2 == 0)
        place(survivor->content_, write.offset + at, ConstBytes(write.bytes).subspan(at, end - at));
      at = end;
    }
  }
  return survivor;
}

}  // namespace cofre::storage
