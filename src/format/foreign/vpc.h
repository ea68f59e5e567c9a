// VHD, the image of Virtual PC, Hyper-V and Azure ("vpc" in QEMU): fixed, or dynamic with a block allocation
// table.
//
// Integers are big-endian. The sources, and what is refused, are in docs/format/foreign.md.
#pragma once

#include "format/foreign/image.h"
#include "format/foreign/table_cache.h"

namespace cofre::foreign {

// Whether a file starts as a dynamic image does. A fixed one starts as its disk does: it is told by -f only.
bool is_vpc(ConstBytes start) noexcept;

// Which of the footer's two sizes is the disk's.
enum class VpcSize {
  kByCreator,  // as the program that made the image takes it
  kCurrentSize,
  kGeometry,
};

// Fixed images have no table: blocks of 0 bytes.
struct VpcLayout {
  uint64_t disk_bytes = 0;
  uint64_t table_offset = 0;
  uint64_t entries = 0;
  uint32_t block_bytes = 0;
  uint32_t bitmap_bytes = 0;  // before each block
};

class Vpc final : public Image {
 public:
  // Throws Error kCorrupt, kUnsupported (a parent).
  static io::task<std::unique_ptr<Vpc>> open(std::unique_ptr<block::Device> file, VpcSize size);

  std::optional<uint64_t> cluster_bytes() const override;

 private:
  Vpc(std::unique_ptr<block::Device> file, const VpcLayout& layout);
  io::task<Piece> locate(uint64_t offset, uint64_t length) override;

  VpcLayout layout_;
  TableCache tables_;
};

}  // namespace cofre::foreign
