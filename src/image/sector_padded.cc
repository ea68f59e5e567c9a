#include "image/sector_padded.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/units.h"

namespace cofre::image {
namespace {

class SectorPadded final : public block::Device {
 public:
  explicit SectorPadded(std::unique_ptr<block::Device> file) : file_(std::move(file)) {}

  const std::string& name() const override { return file_->name(); }
  const block::Limits& limits() const override { return file_->limits(); }
  uint64_t length_bytes() const override { return align_up<uint64_t>(file_->length_bytes(), kSectorBytes); }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    const uint64_t inside = bytes_inside(offset, destination.size());
    if (inside > 0) co_await file_->read(offset, destination.first(inside));
    std::memset(destination.data() + inside, 0, destination.size() - inside);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    co_await cover(offset + source.size());
    co_await file_->write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    co_await cover(offset + length);
    co_await file_->write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    return file_->discard(offset, bytes_inside(offset, length));
  }
  io::task<void> flush() override { return file_->flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    const uint64_t inside = bytes_inside(offset, length);
    if (inside == 0) co_return block::Extent{.length_bytes = length, .allocated = true, .zero = true};
    block::Extent extent = co_await file_->map(offset, inside);
    // The padding belongs to what stands before it: an extent is whole sectors.
    if (extent.length_bytes == inside) {
      extent.length_bytes = length;
    } else if (extent.length_bytes >= kSectorBytes) {
      extent.length_bytes = align_down<uint64_t>(extent.length_bytes, kSectorBytes);
    } else {  // a window's sector that is partly a hole of the file
      extent = {.length_bytes = kSectorBytes, .allocated = true, .data = true};
    }
    co_return extent;
  }
  io::task<void> resize(uint64_t length) override { return file_->resize(length); }
  io::task<void> close() override { return file_->close(); }
  std::optional<uint64_t> allocated_bytes() const override { return file_->allocated_bytes(); }
  void raise(block::Event event) override { file_->raise(event); }

 private:
  uint64_t bytes_inside(uint64_t offset, uint64_t length) const {
    const uint64_t end = file_->length_bytes();
    return offset >= end ? 0 : std::min(length, end - offset);
  }
  // Lengthens the file so that a write up to `end` meets whole sectors.
  io::task<void> cover(uint64_t end) {
    const uint64_t padded = length_bytes();
    if (end > file_->length_bytes() && padded != file_->length_bytes()) co_await file_->resize(padded);
  }

  std::unique_ptr<block::Device> file_;
};

}  // namespace

std::unique_ptr<block::Device> make_sector_padded(std::unique_ptr<block::Device> file) {
  if (is_aligned<uint64_t>(file->length_bytes(), kSectorBytes)) return file;
  return std::make_unique<SectorPadded>(std::move(file));
}

}  // namespace cofre::image
