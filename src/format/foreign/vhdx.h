// VHDX, Hyper-V's image: dynamic or fixed, in blocks of 1 to 256 MiB.
//
// Sources, and what is refused, are in docs/format/foreign.md.
#pragma once

#include "format/foreign/image.h"
#include "format/foreign/table_cache.h"
#include "format/foreign/vhdx_header.h"

namespace cofre::foreign {

// Whether a file starts so.
bool is_vhdx(ConstBytes start) noexcept;

class Vhdx final : public Image {
 public:
  // Throws as read_vhdx_layout().
  static io::task<std::unique_ptr<Vhdx>> open(std::unique_ptr<block::Device> file);

  std::optional<uint64_t> cluster_bytes() const override { return layout_.block_bytes; }

 private:
  Vhdx(std::unique_ptr<block::Device> file, const VhdxLayout& layout);
  io::task<Piece> locate(uint64_t offset, uint64_t length) override;

  VhdxLayout layout_;
  TableCache tables_;
};

}  // namespace cofre::foreign
