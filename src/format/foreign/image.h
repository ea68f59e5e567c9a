// What the images of other programs have in common: they are read, never written.
//
// A format says where a run of the guest's bytes rests (locate()); reading and map() follow from that. There
// is no home lane: what open() read does not change any more, and tables come from a cache that any lane
// asks.
//
// Errors: kCorrupt where a table points out of its file (a truncated image is refused, not read as zeros),
// kReadOnly for whatever would change the image, and those of the file.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/device.h"

namespace cofre::foreign {

// Where a run of the guest's bytes rests.
struct Piece {
  enum class Kind {
    kAbsent,      // never written: zero, as none of these images has a parent
    kZero,        // said to be zero
    kStored,      // at file_offset, as they read
    kCompressed,  // within the compressed unit at file_offset
  };
  Kind kind = Kind::kZero;
  uint64_t length_bytes = 0;  // from 1 to what was asked for
  block::Device* file = nullptr;
  uint64_t file_offset = 0;
  bool whole_disk = false;  // the file holds the disk byte for byte: its holes are the guest's zeros
};

class Image : public block::Device {
 public:
  const std::string& name() const override { return file_->name(); }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return length_bytes_; }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> flush() override;
  io::task<void> close() override { return file_->close(); }
  std::optional<uint64_t> allocated_bytes() const override { return file_->allocated_bytes(); }

  // The unit of allocation, as `info` tells it; nothing where there is none.
  virtual std::optional<uint64_t> cluster_bytes() const { return std::nullopt; }

 protected:
  // `file` takes requests of any alignment.
  explicit Image(std::unique_ptr<block::Device> file);

  // [offset, offset + length) lies within the disk and is not empty.
  virtual io::task<Piece> locate(uint64_t offset, uint64_t length) = 0;
  // Reads `destination.size()` bytes at `offset` of a piece that is compressed.
  virtual io::task<void> read_compressed(Piece piece, uint64_t offset, Bytes destination);

  block::Device& file() const noexcept { return *file_; }
  void set_length(uint64_t length_bytes) noexcept { length_bytes_ = length_bytes; }

 private:
  io::task<Piece> locate_run(uint64_t offset, uint64_t length);
  void check_in_file(const Piece& piece, uint64_t offset) const;

  std::unique_ptr<block::Device> file_;
  block::Limits limits_;
  uint64_t length_bytes_ = 0;
};

// Reads a structure of `size` bytes. Throws Error kCorrupt, naming `what`, where the file ends before it.
io::task<void> read_structure(block::Device& file, uint64_t offset, Bytes destination, std::string_view what);

}  // namespace cofre::foreign
