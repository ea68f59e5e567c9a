// A table of 64-bit big-endian integers that is kept whole in memory (L1 table, refcount table), with the
// 512-byte pieces of it that changed.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "base/aligned_buffer.h"
#include "block/device.h"

namespace cofre::qcow2 {

class DiskTable {
 public:
  // Reads `entries` integers from `offset` of `file`.
  io::task<void> read(block::Device& file, uint64_t offset, uint64_t entries);
  // An in-memory table that still has to be written whole to `offset`.
  void assign(uint64_t offset, std::vector<uint64_t> values);

  uint64_t offset() const noexcept { return offset_; }
  uint64_t size() const noexcept { return values_.size(); }
  uint64_t operator[](uint64_t index) const noexcept { return values_[index]; }
  const std::vector<uint64_t>& values() const noexcept { return values_; }
  void set(uint64_t index, uint64_t value) {
    values_[index] = value;
    dirty_pieces_.insert(index / kEntriesPerPiece);
  }

  bool dirty() const noexcept { return !dirty_pieces_.empty(); }
  io::task<void> write_dirty(block::Device& file);
  // Writes all of it, zero-padded to `padded_bytes`.
  io::task<void> write_whole(block::Device& file, uint64_t padded_bytes);

 private:
  static constexpr uint64_t kEntriesPerPiece = 64;

  uint64_t offset_ = 0;
  std::vector<uint64_t> values_;
  std::set<uint64_t> dirty_pieces_;
};

}  // namespace cofre::qcow2
