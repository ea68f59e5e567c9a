// VDI, VirtualBox's image: one table of blocks, dynamic or static.
//
// Integers are little-endian. The sources, and what is refused, are in docs/format/foreign.md.
#pragma once

#include "format/foreign/image.h"
#include "format/foreign/table_cache.h"

namespace cofre::foreign {

// Whether a file starts so: `start` holds its first bytes.
bool is_vdi(ConstBytes start) noexcept;

struct VdiHeader {
  bool is_static = false;  // every block was allocated when the image was made
  uint64_t table_offset = 0;
  uint64_t data_offset = 0;
  uint64_t disk_bytes = 0;  // whole sectors
  uint32_t block_bytes = 0;
};

class Vdi final : public Image {
 public:
  // Throws Error kCorrupt, kUnsupported (a parent, a version that is not 1.1).
  static io::task<std::unique_ptr<Vdi>> open(std::unique_ptr<block::Device> file);

  std::optional<uint64_t> cluster_bytes() const override { return header_.block_bytes; }

 private:
  Vdi(std::unique_ptr<block::Device> file, const VdiHeader& header);
  io::task<Piece> locate(uint64_t offset, uint64_t length) override;

  VdiHeader header_;
  TableCache tables_;
};

}  // namespace cofre::foreign
