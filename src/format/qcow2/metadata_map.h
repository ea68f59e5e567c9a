// Which host clusters hold metadata (header, tables, refcount blocks): one bit a cluster. A damaged or
// hostile image can claim such a cluster for guest data; nothing is written there.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace cofre::qcow2 {

class MetadataMap {
 public:
  explicit MetadataMap(uint32_t cluster_bits) : cluster_bits_(cluster_bits) {}

  void add(uint64_t host_offset, uint64_t length = 1) { set(host_offset, length, true); }
  void remove(uint64_t host_offset, uint64_t length = 1) { set(host_offset, length, false); }

  void clear() noexcept { bits_.clear(); }

  // Behind the last cluster that is metadata, in bytes.
  uint64_t end() const noexcept {
    for (size_t word = bits_.size(); word > 0; --word)
      if (bits_[word - 1] != 0)
        return (word * 64 - static_cast<uint64_t>(std::countl_zero(bits_[word - 1]))) << cluster_bits_;
    return 0;
  }

  bool overlaps(uint64_t host_offset, uint64_t length) const noexcept {
    const uint64_t last = (host_offset + length - 1) >> cluster_bits_;
    for (uint64_t cluster = host_offset >> cluster_bits_; cluster <= last; ++cluster) {
      if (cluster / 64 >= bits_.size()) return false;
      if (bits_[cluster / 64] >> (cluster % 64) & 1) return true;
    }
    return false;
  }

 private:
  // 16 MiB of bits: 8 TiB of file at 64 KiB clusters. What lies beyond is not watched.
  static constexpr uint64_t kMostWords = uint64_t{16} << 20 >> 3;

  void set(uint64_t host_offset, uint64_t length, bool value) {
    if (length == 0) return;
    const uint64_t last = (host_offset + length - 1) >> cluster_bits_;
    for (uint64_t cluster = host_offset >> cluster_bits_; cluster <= last; ++cluster) {
      if (cluster / 64 >= kMostWords) return;
      if (cluster / 64 >= bits_.size()) {
        if (!value) return;
        bits_.resize(cluster / 64 + 1);
      }
      const uint64_t bit = uint64_t{1} << (cluster % 64);
      bits_[cluster / 64] = value ? bits_[cluster / 64] | bit : bits_[cluster / 64] & ~bit;
    }
  }

  uint32_t cluster_bits_;
  std::vector<uint64_t> bits_;
};

}  // namespace cofre::qcow2
