#include "layer/record.h"

#include <algorithm>
#include <cstring>

#include "base/units.h"

namespace cofre::layer {
namespace {

void place(std::vector<std::byte>& content, uint64_t offset, const std::byte* from, uint64_t length) {
  if (offset + length > content.size()) content.resize(offset + length);
  std::memcpy(content.data() + offset, from, length);
}

}  // namespace

size_t RecordDevice::start(Entry entry) {
  const std::lock_guard lock(mutex_);
  entry.started = moments_++;
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
}

void RecordDevice::end(size_t index) {
  const std::lock_guard lock(mutex_);
  entries_[index].ended = moments_++;
}

io::task<void> RecordDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  const size_t index =
      start({Kind::kBytes, offset, source.size(), {source.begin(), source.end()}, flags.fua});
  co_await inner().write(offset, source, flags);
  end(index);
}

io::task<void> RecordDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  const size_t index = start({Kind::kZeroes, offset, length, {}, flags.fua});
  co_await inner().write_zeroes(offset, length, flags);
  end(index);
}

io::task<void> RecordDevice::discard(uint64_t offset, uint64_t length) {
  const size_t index = start({Kind::kDiscard, offset, length, {}, false});
  co_await inner().discard(offset, length);
  end(index);
}

io::task<void> RecordDevice::flush() {
  const size_t index = start({Kind::kFlush, 0, 0, {}, false});
  co_await inner().flush();
  end(index);
}

io::task<void> RecordDevice::resize(uint64_t length) {
  const size_t index = start({Kind::kResize, 0, length, {}, false});
  co_await inner().resize(length);
  end(index);
}

io::task<void> RecordDevice::close() {
  const size_t index = start({Kind::kFlush, 0, 0, {}, false});
  co_await inner().close();
  end(index);
}

uint64_t RecordDevice::moments() const {
  const std::lock_guard lock(mutex_);
  return moments_;
}

uint64_t RecordDevice::flushes_ended_at(uint64_t moment) const {
  const std::lock_guard lock(mutex_);
  return static_cast<uint64_t>(std::count_if(entries_.begin(), entries_.end(), [moment](const Entry& entry) {
    return entry.kind == Kind::kFlush && entry.ended < moment;
  }));
}

// Whether the change ended before a flush started that itself had ended by `moment`.
bool RecordDevice::durable(const Entry& change, uint64_t moment) const {
  if (change.ended >= moment) return false;
  if (change.fua) return true;
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.kind == Kind::kFlush && entry.started > change.ended && entry.ended < moment;
  });
}

std::unique_ptr<storage::MemoryDevice> RecordDevice::replay(uint64_t moments, std::mt19937_64& random) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::byte> content = initial_;
  for (const Entry& entry : entries_) {
    if (entry.started >= moments || entry.kind == Kind::kFlush) continue;
    const bool whole = durable(entry, moments);
    const uint64_t fate = whole ? 1 : random() % 4;  // nothing, everything, or each sector by itself
    if (fate == 0) continue;
    if (entry.kind == Kind::kResize) {
      content.resize(entry.length);
      continue;
    }
    const std::vector<std::byte> zeroes(
        entry.kind == Kind::kBytes ? 0 : std::min<uint64_t>(entry.length, kSectorBytes));
    uint64_t end = entry.offset + entry.length;
    if (entry.kind == Kind::kDiscard) end = std::min<uint64_t>(end, content.size());
    for (uint64_t at = entry.offset; at < end;) {
      const uint64_t sector_end = std::min(end, (at / kSectorBytes + 1) * kSectorBytes);
      const std::byte* from =
          entry.kind == Kind::kBytes ? entry.bytes.data() + (at - entry.offset) : zeroes.data();
      if (fate == 1 || random() % 2 == 0) place(content, at, from, sector_end - at);
      at = sector_end;
    }
  }
  auto survivor = std::make_unique<storage::MemoryDevice>(content.size(), name() + " after power loss");
  survivor->content() = std::move(content);
  return survivor;
}

}  // namespace cofre::layer
