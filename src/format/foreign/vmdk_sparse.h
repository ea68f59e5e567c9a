// A sparse extent of a VMDK ("KDMV", and "COWD" of ESX): grains of the disk, found through a grain directory
// and grain tables.
//
// Offsets on disk count in sectors; integers are little-endian.
#pragma once

#include <optional>

#include "format/foreign/image.h"
#include "format/foreign/table_cache.h"

namespace cofre::foreign {

// Whether a file starts as a sparse extent does.
bool is_vmdk_sparse(ConstBytes start) noexcept;

struct VmdkSparse {
  uint64_t length_bytes = 0;  // of the part of the disk that it holds
  uint64_t grain_bytes = 0;
  uint64_t table_entries = 0;      // of one grain table
  uint64_t directory_offset = 0;   // bytes
  uint64_t descriptor_offset = 0;  // bytes; 0: there is none in this file
  uint64_t descriptor_bytes = 0;
  bool zero_grains = false;  // entry 1 says that a grain is zero
  bool compressed = false;

  uint64_t table_span_bytes() const noexcept { return grain_bytes * table_entries; }
};

// Reads the header, and the footer of an image that was written as a stream. Throws Error kCorrupt,
// kUnsupported.
io::task<VmdkSparse> read_vmdk_sparse(block::Device& file);

// Where [offset, offset + length) of the extent rests; not empty, and within it.
io::task<Piece> locate_grain(const VmdkSparse& extent, block::Device& file, TableCache& tables,
                             uint64_t offset, uint64_t length);

// Reads what is at `within` of the compressed grain at `grain_offset` of the file. Throws Error kCorrupt.
io::task<void> read_compressed_grain(const VmdkSparse& extent, block::Device& file, uint64_t grain_offset,
                                     uint64_t within, Bytes destination);

}  // namespace cofre::foreign
