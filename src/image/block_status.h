// How the content of an image rests, extent by extent, down its chain of backing files: as QEMU tells it.
// Home lane; needs no key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image/open.h"

namespace cofre::image {

// A run of the guest's bytes that all rest the same way.
struct BlockStatus {
  uint64_t start = 0;
  uint64_t length = 0;
  uint32_t depth = 0;    // in the chain, of the layer that decides
  bool present = false;  // some layer decides the content
  bool zero = false;     // reads as zero
  bool data = false;
  std::optional<uint64_t> offset;  // where it rests, as it reads
  std::string file;                // what `offset` counts in

  // Whether this run and the one before it are one.
  bool continues(const BlockStatus& before) const;
};

class BlockStatusReader {
 public:
  // `image` outlives this.
  explicit BlockStatusReader(OpenedImage& image) : image_(image), unwritten_(image.chain.size()) {}

  // The run that starts at `offset`, at most `length` long: multiples of 512, within the image.
  io::task<BlockStatus> at(uint64_t offset, uint64_t length);

 private:
  io::task<bool> unwritten(uint32_t depth);
  bool is_bare_storage(uint32_t depth) const;
  io::task<void> look_below(BlockStatus& status);

  OpenedImage& image_;
  std::vector<std::optional<bool>> unwritten_;  // of each layer, once it was found out
};

}  // namespace cofre::image
