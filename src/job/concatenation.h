// One or several devices read as one long run of bytes, at any offset and length.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "block/device.h"
#include "io/task.h"
#include "job/salvage.h"

namespace cofre::job {

// Each device begins at a multiple of 512 bytes: one of another length is followed by zeros. Reads as zero
// without end behind the last one. The devices belong to the caller. Any lane may use it, as far as the
// devices allow.
class Concatenation {
 public:
  // `base`: what this device or those below it decide is not told apart (see Piece); null: everything is.
  // `unreadable`: hears of what cannot be read, which is taken for zeros; empty: the first error is thrown.
  explicit Concatenation(std::vector<block::Device*> devices, block::Device* base = nullptr,
                         TellUnreadable unreadable = {});

  // The end of the last device, without and with its padding.
  uint64_t length_bytes() const noexcept { return length_; }
  uint64_t padded_bytes() const noexcept { return padded_; }

  // The largest of what the devices, and those below them, prefer.
  uint64_t preferred_bytes() const noexcept { return preferred_; }

  struct Piece {
    uint64_t end = 0;           // the piece is [the offset asked for, end)
    bool left_to_base = false;  // no layer above the base decides
    block::Extent extent;       // what map_chain() says, but for its length and the value of host_offset
  };
  // The piece that starts at `offset`, ending at `limit` at the latest. Throws what map() throws.
  io::task<Piece> map(uint64_t offset, uint64_t limit) const;

  // Fills `destination`. Requests that a device's alignment does not allow go through a buffer.
  io::task<void> read(uint64_t offset, Bytes destination) const;

 private:
  struct Span {
    block::Device* device;
    uint64_t start;
    uint64_t length;  // of the device; the padding follows
  };
  const Span& span_at(uint64_t offset) const noexcept;
  uint64_t end_of_padding(const Span& span) const noexcept;
  io::task<Piece> map_span(const Span& span, uint64_t offset, uint64_t limit) const;
  io::task<void> read_span(const Span& span, uint64_t inside, Bytes destination) const;
  io::task<void> read_by_units(const Span& span, uint64_t inside, Bytes destination) const;
  static uint64_t salvage_unit(const Span& span) noexcept;
  static io::task<void> read_device(block::Device& device, uint64_t offset, Bytes destination);

  std::vector<Span> spans_;
  block::Device* base_;
  TellUnreadable unreadable_;
  uint64_t length_ = 0;
  uint64_t padded_ = 0;
  uint64_t preferred_ = 0;
};

}  // namespace cofre::job
