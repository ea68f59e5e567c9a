#include "format/qcow2/slice_cache.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/units.h"
#include "format/qcow2/read_padded.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kSmallestCapacitySlices = 64;
constexpr uint64_t kLargestWriteBytes = kMiB;

}  // namespace

SliceCache::SliceCache(block::Device& file, uint32_t slice_bytes, uint64_t capacity_bytes,
                       block::Event load_event, block::Event write_event)
    : file_(file),
      slice_bytes_(slice_bytes),
      capacity_slices_(std::max(capacity_bytes / slice_bytes, kSmallestCapacitySlices)),
      load_event_(load_event),
      write_event_(write_event) {}

Slice* SliceCache::find(uint64_t offset) noexcept {
  const auto at = slices_.find(slice_start(offset));
  if (at == slices_.end() || !at->second->loaded) return nullptr;
  touch(*at->second);
  return at->second.get();
}

io::task<SlicePtr> SliceCache::load(uint64_t offset) {
  const uint64_t start = slice_start(offset);
  while (true) {
    const auto at = slices_.find(start);
    if (at == slices_.end()) break;
    SlicePtr slice = at->second;
    if (slice->loaded) {
      touch(*slice);
      co_return slice;
    }
    co_await slice->load_waiters.wait();  // then look again: the load may have failed, or the slice be gone
  }
  evict_clean();
  auto slice = std::make_shared<Slice>();
  slice->offset = start;
  slice->bytes = AlignedBuffer(slice_bytes_);
  by_use_.push_front(slice.get());
  slice->use_order = by_use_.begin();
  slices_.emplace(start, slice);
  co_await fill(slice);
  co_return slice;
}

io::task<void> SliceCache::fill(SlicePtr slice) {
  try {
    file_.raise(load_event_);
    co_await read_padded(file_, slice->offset, slice->bytes.bytes());
  } catch (...) {
    if (!slice->dropped) forget(*slice);
    slice->load_waiters.wake_all();
    throw;
  }
  slice->loaded = true;
  slice->load_waiters.wake_all();
}

void SliceCache::mark_dirty(Slice& slice) noexcept {
  if (slice.dirty || slice.dropped) return;
  slice.dirty = true;
  ++dirty_count_;
}

void SliceCache::forget(Slice& slice) noexcept {
  if (slice.dirty) --dirty_count_;
  slice.dirty = false;
  slice.dropped = true;
  by_use_.erase(slice.use_order);
  slices_.erase(slice.offset);  // may destroy the slice
}

void SliceCache::evict_clean() noexcept {
  auto at = by_use_.end();
  while (slices_.size() >= capacity_slices_ && at != by_use_.begin()) {
    --at;
    Slice& slice = **at;
    if (slice.dirty || !slice.loaded) continue;
    ++at;  // forget() erases the element before
    forget(slice);
  }
}

io::task<void> SliceCache::write_dirty() {
  if (dirty_count_ == 0) co_return;
  std::vector<SlicePtr> dirty;
  dirty.reserve(dirty_count_);
  for (const auto& [offset, slice] : slices_)
    if (slice->dirty) dirty.push_back(slice);
  std::ranges::sort(dirty, {}, [](const SlicePtr& slice) { return slice->offset; });
  for (size_t first = 0; first < dirty.size();) {
    size_t end = first + 1;
    while (end < dirty.size() && dirty[end]->offset == dirty[end - 1]->offset + slice_bytes_ &&
           (end - first + 1) * slice_bytes_ <= kLargestWriteBytes)
      ++end;
    AlignedBuffer run((end - first) * slice_bytes_);
    for (size_t i = first; i < end; ++i)
      std::memcpy(run.data() + (i - first) * slice_bytes_, dirty[i]->bytes.data(), slice_bytes_);
    file_.raise(write_event_);
    co_await file_.write(dirty[first]->offset, run.bytes());
    for (size_t i = first; i < end; ++i) {
      dirty[i]->dirty = false;
      --dirty_count_;
    }
    first = end;
  }
}

void SliceCache::drop(uint64_t offset, uint64_t length) noexcept {
  for (uint64_t at = slice_start(offset); at < offset + length; at += slice_bytes_) {
    const auto found = slices_.find(at);
    if (found == slices_.end()) continue;
    const SlicePtr keep = found->second;
    forget(*keep);
  }
}

void SliceCache::clear() noexcept {
  while (!by_use_.empty()) {
    const SlicePtr keep = slices_.at(by_use_.front()->offset);
    forget(*keep);
  }
}

}  // namespace cofre::qcow2
