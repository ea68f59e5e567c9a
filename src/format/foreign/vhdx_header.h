// The structures of a VHDX file before its blocks: headers, log, region table, metadata.
//
// Section numbers are those of [MS-VHDX]. Integers are little-endian; structures carry a CRC-32C.
#pragma once

#include "block/device.h"

namespace cofre::foreign {

struct VhdxLayout {
  uint64_t disk_bytes = 0;
  uint64_t table_offset = 0;  // of the BAT
  uint32_t block_bytes = 0;
  uint32_t chunk_blocks = 0;  // blocks between two entries of the BAT that are about sector bitmaps

  // Where the entry of a block stands in the BAT: after every chunk comes the entry of its sector bitmap.
  uint64_t entry_index(uint64_t block) const noexcept { return block + block / chunk_blocks; }
};

// Throws Error kCorrupt; kUnsupported for an image with a parent, one that needs what Cofre does not know,
// and one whose log was not replayed: its structures are only right after that.
io::task<VhdxLayout> read_vhdx_layout(block::Device& file);

}  // namespace cofre::foreign
