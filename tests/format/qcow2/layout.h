// Reads and damages the bytes of a qcow2 file, straight from the specification and independent of the code
// under test.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace cofre::qcow2 {

struct Layout {
  std::vector<std::byte>& file;

  template <typename T>
  T get(uint64_t at) const {
    return load_be<T>(file.data() + at);
  }
  template <typename T>
  void put(uint64_t at, T value) {
    if (file.size() < at + sizeof value) file.resize(at + sizeof value);
    store_be<T>(file.data() + at, value);
  }
  static constexpr uint64_t kMask = 0x00fffffffffffe00;
  static constexpr uint64_t kCopied = uint64_t{1} << 63;
  static constexpr uint64_t kCompressed = uint64_t{1} << 62;

  uint64_t cluster_bytes() const { return uint64_t{1} << get<uint32_t>(20); }
  uint64_t l1() const { return get<uint64_t>(40); }
  uint64_t l2(uint64_t l1_index = 0) const { return get<uint64_t>(l1() + l1_index * 8) & kMask; }
  uint64_t refcount_table() const { return get<uint64_t>(48); }
  uint64_t refcount_block(uint64_t index = 0) const { return get<uint64_t>(refcount_table() + index * 8); }
  uint64_t snapshot_table() const { return get<uint64_t>(64); }
  // 16-bit refcounts of the first block.
  void set_refcount(uint64_t cluster, uint16_t value) {
    put<uint16_t>(refcount_block() + cluster * 2, value);
  }
};

}  // namespace cofre::qcow2
