// Keeps what a device held before it was changed, in a file from which it can be put back
// (docs/format/undo.md).
//
// Before a write reaches the device, a record with the old bytes is durable in the log. So at any moment,
// also after a crash, the log takes the device back to where it was. For one writer at a time, such as a
// repair; the device's requests are of whole sectors.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "layer/filter.h"

namespace cofre::layer {

// What the logged device is, in the caller's terms: a log is put back only into a device of the same.
using UndoIdentity = std::array<std::byte, 32>;

class UndoLog final : public Filter {
 public:
  // `log` is an empty, growable device. `length` is what the device is to be cut to when it is put back.
  UndoLog(std::unique_ptr<block::Device> inner, std::unique_ptr<block::Device> log, uint64_t length)
      : Filter(std::move(inner)), log_(std::move(log)), length_(length) {}

  // Before the first change.
  void set_identity(const UndoIdentity& identity) noexcept { identity_ = identity; }
  uint64_t bytes_kept() const noexcept { return bytes_kept_; }

  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  // Ends the log with the device's length, and closes both.
  io::task<void> close() override;

 private:
  io::task<void> begin();
  io::task<void> append(std::vector<std::byte> record);
  // `fill`: the bytes that come, or nothing where they are zero.
  io::task<void> keep(uint64_t offset, uint64_t length, ConstBytes fill);
  io::task<void> keep_piece(uint64_t begin, uint64_t end, uint64_t offset, uint64_t length, ConstBytes fill);

  std::unique_ptr<block::Device> log_;
  uint64_t length_;
  UndoIdentity identity_ = {};
  uint64_t at_ = 0;  // the end of the log
  uint64_t bytes_kept_ = 0;
};

struct UndoTarget {
  block::Device& device;
  UndoIdentity identity = {};
  std::function<io::task<void>(uint64_t length)> cut;  // gives it its old length
};
// Puts everything back; durable when it returns. Looks first whether each sector that the log has is what it
// was before or after the logged change: throws Error kInvalidArgument, having changed nothing, where it is
// another device or was changed since, kCorrupt where the log is none. A crash meanwhile: do it again. Gives
// the bytes put back.
io::task<uint64_t> put_back(block::Device& log, UndoTarget target);

}  // namespace cofre::layer
