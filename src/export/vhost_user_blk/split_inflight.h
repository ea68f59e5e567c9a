// Which requests of a split ring are in flight, kept in memory that the front end keeps for us, so that a
// server after this one can go on. One lane's.
//
// Source: vhost-user, "Inflight I/O tracking". The area was written by a server that may have died between
// any two of its stores, or by a hostile front end: what it says is checked. Its layout, little-endian:
//
//   0 features u64, 8 version u16 (0: not in use yet), 10 descriptors u16, 12 last batch's head u16,
//   14 used index u16, 16 one entry of 16 bytes a descriptor: in flight u8, 6 next of the batch u16, 8 order
//   u64
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cofre::vhost {

class SplitInflight {
 public:
  static size_t area_bytes(uint16_t ring_size) noexcept;

  // Takes the area into use. Throws Error kCorrupt for one that was made for another ring.
  SplitInflight(std::byte* area, uint16_t ring_size);
  // No server has used it before.
  bool fresh() const noexcept { return fresh_; }

  // Puts in order what a server before this one left, whose ring's used index is `used_index`; gives the
  // heads of the requests in flight, the oldest first.
  std::vector<uint16_t> recover(uint16_t used_index);

  void note_taken(uint16_t head) noexcept;
  // Before and after the driver is told of a batch.
  void note_used(uint16_t head) noexcept;
  void note_published(uint16_t used_index) noexcept;

 private:
  std::byte* entry(uint16_t head) const noexcept;
  void forget_last_batch(uint16_t count);

  std::byte* const area_;
  const uint16_t size_;
  bool fresh_;
  uint64_t order_ = 0;
  std::vector<uint16_t> batch_;
};

}  // namespace cofre::vhost
