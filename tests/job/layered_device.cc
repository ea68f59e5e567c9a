#include "job/layered_device.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"
#include "io/reactor.h"

namespace cofre::test {

LayeredDevice::LayeredDevice(uint64_t length, std::string name, LayeredDevice* backing)
    : name_(std::move(name)),
      backing_(backing),
      content_(length),
      sectors_(div_ceil<uint64_t>(length, kSectorBytes), Sector::kUnallocated) {
  limits_.request_alignment = kSectorBytes;
  limits_.discard_alignment = kSectorBytes;
}

void LayeredDevice::fail_if_asked(Kind kind, uint64_t offset) {
  if (fails && fails(kind, offset)) fail(ErrorKind::kIo, "'{}': injected fault at offset {}", name_, offset);
}

io::task<void> LayeredDevice::read(uint64_t offset, Bytes destination) {
  {
    const std::lock_guard lock(mutex_);
    most_reads_ = std::max(most_reads_, ++reads_now_);
    bytes_read_ += destination.size();
  }
  co_await io::yield();
  {
    const std::lock_guard lock(mutex_);
    --reads_now_;
    fail_if_asked(Kind::kRead, offset);
    const std::vector<std::byte> below = backing_ != nullptr ? backing_->view() : std::vector<std::byte>();
    for (uint64_t at = 0; at < destination.size(); at += kSectorBytes) {
      const Bytes sector = destination.subspan(at, std::min<uint64_t>(kSectorBytes, destination.size() - at));
      const Sector state = sectors_[(offset + at) / kSectorBytes];
      std::fill(sector.begin(), sector.end(), std::byte{0});
      const std::vector<std::byte>& from = state == Sector::kData ? content_ : below;
      if (state == Sector::kZero || offset + at >= from.size()) continue;
      std::memcpy(sector.data(), from.data() + offset + at,
                  std::min(sector.size(), from.size() - offset - at));
    }
  }
  co_await io::yield();
}

io::task<void> LayeredDevice::change(uint64_t offset, uint64_t length, const std::byte* source,
                                     bool compressed) {
  {
    const std::lock_guard lock(mutex_);
    writes_.push_back({offset, length, source == nullptr, compressed});
    most_writes_ = std::max(most_writes_, ++writes_now_);
  }
  co_await io::yield();
  {
    const std::lock_guard lock(mutex_);
    --writes_now_;
    fail_if_asked(source == nullptr ? Kind::kZero : Kind::kWrite, offset);
    set(offset, length, source == nullptr ? Sector::kZero : Sector::kData);
    if (source != nullptr) std::memcpy(content_.data() + offset, source, length);
  }
  co_await io::yield();
}

io::task<void> LayeredDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  return change(offset, source.size(), source.data(), flags.compressed);
}

io::task<void> LayeredDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  if (flags.no_fallback && !zeroes_cheaply) fail(ErrorKind::kUnsupported, "'{}' cannot zero", name_);
  if (zeroes_cheaply) return change(offset, length, nullptr);
  const static std::vector<std::byte> zeros(64 * kMiB);
  return change(offset, length, zeros.data());
}

io::task<void> LayeredDevice::discard(uint64_t, uint64_t) {
  co_return;
}
io::task<void> LayeredDevice::flush() {
  co_return;
}
io::task<void> LayeredDevice::close() {
  co_return;
}
io::task<void> LayeredDevice::resize(uint64_t) {
  fail(ErrorKind::kUnsupported, "'{}' has a fixed length", name_);
}

io::task<block::Extent> LayeredDevice::map(uint64_t offset, uint64_t length) {
  co_await io::yield();
  const std::lock_guard lock(mutex_);
  fail_if_asked(Kind::kMap, offset);
  const Sector state = sectors_[offset / kSectorBytes];
  uint64_t end = offset / kSectorBytes;
  while (end * kSectorBytes < offset + length && sectors_[end] == state) ++end;
  co_return block::Extent{.length_bytes = std::min(length, end * kSectorBytes - offset),
                          .allocated = state != Sector::kUnallocated,
                          .zero = state == Sector::kZero,
                          .data = state == Sector::kData};
}

void LayeredDevice::set(uint64_t offset, uint64_t length, Sector state, std::byte fill) {
  for (uint64_t at = offset; at < offset + length; at += kSectorBytes) sectors_[at / kSectorBytes] = state;
  std::fill_n(content_.begin() + static_cast<ptrdiff_t>(offset), length, fill);
}

void LayeredDevice::randomize(std::mt19937_64& random, uint64_t longest_run, bool with_unallocated) {
  for (uint64_t at = 0; at < length_bytes();) {
    const uint64_t length = std::min((1 + random() % longest_run) * kSectorBytes, length_bytes() - at);
    const uint64_t choice = random() % 5;
    if (choice == 0 && with_unallocated) {
      set(at, length, Sector::kUnallocated);
    } else if (choice == 1) {
      set(at, length, Sector::kZero);
    } else {
      set(at, length, Sector::kData, choice == 2 ? std::byte{0} : static_cast<std::byte>(1 + random() % 255));
    }
    at += length;
  }
}

std::vector<std::byte> LayeredDevice::view() const {
  std::vector<std::byte> seen = backing_ != nullptr ? backing_->view() : std::vector<std::byte>();
  seen.resize(length_bytes());
  for (uint64_t i = 0; i < sectors_.size(); ++i) {
    if (sectors_[i] == Sector::kUnallocated) continue;
    const uint64_t at = i * kSectorBytes;
    const uint64_t length = std::min<uint64_t>(kSectorBytes, length_bytes() - at);
    if (sectors_[i] == Sector::kData) {
      std::memcpy(seen.data() + at, content_.data() + at, length);
    } else {
      std::memset(seen.data() + at, 0, length);
    }
  }
  return seen;
}

}  // namespace cofre::test
