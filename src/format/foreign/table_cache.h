// Entries of tables on disk, read in pieces of 4 KiB of which the last used ones are kept: however large a
// table is, and however many files an image has, it costs no more than a few megabytes. Any lane.
#pragma once

#include <bit>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/aligned_buffer.h"
#include "block/device.h"

namespace cofre::foreign {

class TableCache {
 public:
  // The entry at `offset`, a multiple of its size. Throws Error kCorrupt if the file ends before it.
  template <std::unsigned_integral T>
  io::task<T> load_le_entry(block::Device& file, uint64_t offset) {
    std::byte bytes[sizeof(T)];
    co_await load(file, offset, bytes);
    co_return load_le<T>(bytes);
  }
  template <std::unsigned_integral T>
  io::task<T> load_be_entry(block::Device& file, uint64_t offset) {
    std::byte bytes[sizeof(T)];
    co_await load(file, offset, bytes);
    co_return load_be<T>(bytes);
  }

 private:
  using Key = std::pair<const block::Device*, uint64_t>;  // the file, and the piece's offset in it
  struct Slice {
    AlignedBuffer bytes;
    std::list<Key>::iterator use_order;
  };

  io::task<void> load(block::Device& file, uint64_t offset, Bytes entry);
  bool copy_known(const Key& key, uint64_t at, Bytes entry);
  void keep(const Key& key, AlignedBuffer bytes);

  std::mutex mutex_;  // over all below; never held while anything is read
  std::map<Key, Slice> slices_;
  std::list<Key> by_use_;  // most recently used first
};

}  // namespace cofre::foreign
