// Which requests of a packed ring are in flight, kept in memory that the front end keeps for us, so that a
// server after this one can go on. One lane's.
//
// The ring's own descriptors are overwritten by used ones, so they are kept too: a list of free entries, from
// which each request takes one for each of its descriptors in the ring.
//
// Source: vhost-user, "Inflight I/O tracking". The area was written by a server that may have died between
// any two of its stores, or by a hostile front end: what it says is checked. Its layout, little-endian:
//
//   0 features u64, 8 version u16 (0: not in use yet), 10 descriptors u16, 12 first free u16, 14 the same
//   before the batch u16, 16 used index u16, 18 before the batch u16, 20 used wrap counter u8, 21 before the
//   batch u8, 32 one entry of 32 bytes a descriptor: in flight u8, 2 next u16, 4 last u16, 6 number u16,
//   8 order u64, 16 id u16, 18 flags u16, 20 length u32, 24 address u64
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cofre::vhost {

// As in the ring, in an order that suits us.
struct PackedDescriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t id = 0;
  uint16_t flags = 0;
};

// An index of a packed ring and its wrap counter.
struct PackedIndex {
  uint16_t index = 0;
  bool wrap = true;

  void advance(uint16_t descriptors, uint16_t ring_size) noexcept {
    const uint32_t next = uint32_t{index} + descriptors;
    index = static_cast<uint16_t>(next >= ring_size ? next - ring_size : next);
    if (next >= ring_size) wrap = !wrap;
  }
};

class PackedInflight {
 public:
  struct Interrupted {
    uint16_t slot = 0;
    std::vector<PackedDescriptor> descriptors;
  };

  static size_t area_bytes(uint16_t ring_size) noexcept;

  // Takes the area into use. Throws Error kCorrupt for one that was made for another ring.
  PackedInflight(std::byte* area, uint16_t ring_size);
  // No server has used it before.
  bool fresh() const noexcept { return fresh_; }

  // Puts in order what a server before this one left; gives the requests in flight, the oldest first, and
  // changes `used` to where the ring's used index was, if one has. `flags_at(index)` gives the flags of a
  // descriptor in the ring.
  template <typename FlagsAt>
  std::vector<Interrupted> recover(PackedIndex& used, FlagsAt flags_at) {
    if (!fresh_) finish_or_undo_batch(flags_at(batch_start_index()));
    return recover_entries(used);
  }

  // Gives the slot of the request.
  uint16_t note_taken(const std::vector<PackedDescriptor>& descriptors) noexcept;
  // Before the driver is told of a batch, one after the other, and the index behind it; and after.
  void note_used(uint16_t slot) noexcept;
  void note_batch(PackedIndex used) noexcept;
  void note_published() noexcept;

 private:
  std::byte* entry(uint16_t slot) const noexcept;
  uint16_t batch_start_index() const;
  void finish_or_undo_batch(uint16_t flags);
  std::vector<Interrupted> recover_entries(PackedIndex& used);
  void start(PackedIndex used);
  std::vector<bool> free_entries() const;
  Interrupted interrupted(uint16_t slot, std::vector<bool>& taken) const;

  std::byte* const area_;
  const uint16_t size_;
  bool fresh_;
  uint64_t order_ = 0;
  uint16_t free_ = 0;           // the first free entry; size_: there is none
  std::vector<uint16_t> next_;  // as in the entries, which somebody else may change
  std::vector<uint16_t> last_;  // of the request that begins there
  std::vector<uint16_t> batch_;
};

}  // namespace cofre::vhost
