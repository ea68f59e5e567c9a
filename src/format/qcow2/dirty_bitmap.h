// The bits of one dirty bitmap in memory: bit n stands for the guest's bytes from n * granularity on.
//
// set(), clear() and the queries may be called from any lane, beside each other; all else is for when nobody
// else is there. Memory that holds no set bit is not touched, so a clean bitmap costs address space only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "base/bytes.h"

namespace cofre::qcow2 {

class DirtyBitmap {
 public:
  // All clean. Throws std::bad_alloc.
  DirtyBitmap(uint64_t disk_bytes, unsigned granularity_bits);

  uint64_t disk_bytes() const noexcept { return disk_bytes_; }
  unsigned granularity_bits() const noexcept { return granularity_bits_; }
  uint64_t byte_count() const noexcept;  // of the bits, as they are stored

  // Marks the guest's bytes [begin, end), which lie on the disk, dirty. Neither waits nor allocates.
  void set(uint64_t begin, uint64_t end) noexcept;
  void clear() noexcept;
  // Marks what is dirty in `other`, a bitmap of a disk of the same length but perhaps of another granularity.
  void merge(const DirtyBitmap& other) noexcept;
  // The disk has another length now; new bytes are clean.
  void resize(uint64_t disk_bytes);

  // The guest offset from which on the first dirty (clean) byte at or after `from` lies; the disk's length if
  // there is none.
  uint64_t next_dirty(uint64_t from) const noexcept;
  uint64_t next_clean(uint64_t from) const noexcept;

  // The stored bytes from byte `offset` on; past the end: zeros. Bytes that were stored, whose bits past the
  // disk's end are dropped.
  void save(uint64_t offset, Bytes into) const noexcept;
  void load(uint64_t offset, ConstBytes from) noexcept;

 private:
  struct Free {
    void operator()(uint64_t* words) const noexcept { std::free(words); }
  };
  using Words = std::unique_ptr<uint64_t[], Free>;

  static Words make_words(uint64_t bits);
  uint64_t bits() const noexcept;
  uint64_t word(uint64_t index) const noexcept;
  // The first bit at or after `bit` that is set (not set, with `inverted`); bits() if there is none.
  uint64_t find(uint64_t bit, bool inverted) const noexcept;
  void drop_bits_past_end() noexcept;

  uint64_t disk_bytes_;
  unsigned granularity_bits_;
  Words words_;
};

}  // namespace cofre::qcow2
