#include "format/qcow2/disk_table.h"

#include <algorithm>
#include <cstring>

#include "format/qcow2/read_padded.h"

namespace cofre::qcow2 {

io::task<void> DiskTable::read(block::Device& file, uint64_t offset, uint64_t entries) {
  offset_ = offset;
  values_.clear();
  dirty_pieces_.clear();
  if (entries == 0) co_return;
  AlignedBuffer raw(entries * 8);
  co_await read_padded(file, offset, raw.bytes());
  values_.resize(entries);
  for (uint64_t i = 0; i < entries; ++i) values_[i] = load_be<uint64_t>(raw.data() + i * 8);
}

void DiskTable::assign(uint64_t offset, std::vector<uint64_t> values) {
  offset_ = offset;
  values_ = std::move(values);
  dirty_pieces_.clear();
}

io::task<void> DiskTable::write_dirty(block::Device& file) {
  while (!dirty_pieces_.empty()) {
    const uint64_t piece = *dirty_pieces_.begin();
    const uint64_t first = piece * kEntriesPerPiece;
    const uint64_t count = std::min(kEntriesPerPiece, values_.size() - first);
    AlignedBuffer raw(count * 8);
    for (uint64_t i = 0; i < count; ++i) store_be(raw.data() + i * 8, values_[first + i]);
    co_await file.write(offset_ + first * 8, raw.bytes());
    dirty_pieces_.erase(piece);
  }
}

io::task<void> DiskTable::write_whole(block::Device& file, uint64_t padded_bytes) {
  AlignedBuffer raw(padded_bytes);
  std::memset(raw.data(), 0, padded_bytes);
  for (uint64_t i = 0; i < values_.size(); ++i) store_be(raw.data() + i * 8, values_[i]);
  co_await file.write(offset_, raw.bytes());
  dirty_pieces_.clear();
}

}  // namespace cofre::qcow2
