// Keeps slices of L2 tables or refcount blocks in memory, as they are on disk (big-endian).
//
// A slice is a table's piece of at most 4 KiB, so that a random access to a huge image loads little. Belongs
// to the image's home lane. Without suspending: find, mark_dirty, drop. A Slice found or loaded may be used
// until the next co_await; after it, look it up again.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>

#include "base/aligned_buffer.h"
#include "block/device.h"
#include "io/sync.h"

namespace cofre::qcow2 {

struct Slice {
  uint64_t offset = 0;  // in the image file
  AlignedBuffer bytes;
  bool dirty = false;
  bool loaded = false;
  bool dropped = false;  // no longer in the cache, but somebody waits for it
  io::WaitQueue load_waiters;
  std::list<Slice*>::iterator use_order;
};
using SlicePtr = std::shared_ptr<Slice>;

class SliceCache {
 public:
  // Keeps at most `capacity_bytes` of clean slices (dirty ones can exceed it: see should_write_back()).
  // The events are raised before a slice is loaded and before slices are written.
  SliceCache(block::Device& file, uint32_t slice_bytes, uint64_t capacity_bytes, block::Event load_event,
             block::Event write_event);

  uint32_t slice_bytes() const noexcept { return slice_bytes_; }
  // The slice that holds this byte of the file, if it is in memory.
  Slice* find(uint64_t offset) noexcept;
  // The same, loaded from the file if need be. Throws Error of the file.
  io::task<SlicePtr> load(uint64_t offset);

  void mark_dirty(Slice& slice) noexcept;
  bool has_dirty() const noexcept { return dirty_count_ > 0; }
  // Dirty slices fill so much of the cache that they should be written before more are made.
  bool should_write_back() const noexcept { return dirty_count_ * 4 > capacity_slices_ * 3; }
  // Writes every dirty slice, in the order of the file, neighbours in one write. Nobody may change slices
  // meanwhile.
  io::task<void> write_dirty();
  // Forgets the slices of a range whose clusters got a new use; unwritten changes are lost.
  void drop(uint64_t offset, uint64_t length) noexcept;
  void clear() noexcept;

 private:
  uint64_t slice_start(uint64_t offset) const noexcept { return offset & ~uint64_t{slice_bytes_ - 1}; }
  void touch(Slice& slice) noexcept { by_use_.splice(by_use_.begin(), by_use_, slice.use_order); }
  void forget(Slice& slice) noexcept;
  void evict_clean() noexcept;
  io::task<void> fill(SlicePtr slice);

  block::Device& file_;
  uint32_t slice_bytes_;
  uint64_t capacity_slices_;
  block::Event load_event_;
  block::Event write_event_;
  uint64_t dirty_count_ = 0;
  std::unordered_map<uint64_t, SlicePtr> slices_;
  std::list<Slice*> by_use_;  // most recently used first
};

}  // namespace cofre::qcow2
