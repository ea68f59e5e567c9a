// VMDK, VMware's image: a descriptor and extents, flat or sparse, in one file or many.
//
// Sources, and what is refused, are in docs/format/foreign.md.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "format/foreign/image.h"
#include "format/foreign/table_cache.h"
#include "format/foreign/vmdk_descriptor.h"
#include "format/foreign/vmdk_sparse.h"

namespace cofre::foreign {

// Whether a file starts so.
bool is_vmdk(ConstBytes start) noexcept;

// Opens another file of the image, a plain name in the image's folder: a Device that takes requests of any
// alignment.
using VmdkExtentOpener = std::function<std::unique_ptr<block::Device>(const std::string& name)>;

struct VmdkExtent {
  std::string type;    // of the descriptor's line; empty for the only extent in its file
  uint64_t start = 0;  // in the disk
  uint64_t length_bytes = 0;
  block::Device* file = nullptr;                    // null: all zero
  uint64_t flat_offset = 0;                         // in the file
  std::optional<VmdkSparse> sparse = std::nullopt;  // nothing: flat
};

class Vmdk final : public Image {
 public:
  // Throws Error kCorrupt; kUnsupported for an image with a parent, an extent in another folder, or one of a
  // kind that is not read; what `open_extent` throws.
  static io::task<std::unique_ptr<Vmdk>> open(std::unique_ptr<block::Device> file,
                                              VmdkExtentOpener open_extent);

  const VmdkDescriptor& descriptor() const noexcept { return descriptor_; }
  const std::vector<VmdkExtent>& extents() const noexcept { return extents_; }

  io::task<void> close() override;
  // Of all files together.
  std::optional<uint64_t> allocated_bytes() const override;
  // Nothing unless all extents are of one kind.
  std::optional<uint64_t> cluster_bytes() const override;

 private:
  explicit Vmdk(std::unique_ptr<block::Device> file) : Image(std::move(file)) {}

  io::task<void> read_embedded();
  io::task<void> read_separate(VmdkExtentOpener open_extent);
  io::task<void> add_extent(const VmdkExtentLine& line, const VmdkExtentOpener& open_extent);
  io::task<std::string> read_text(uint64_t offset, uint64_t length);
  void append(VmdkExtent extent);
  const VmdkExtent& extent_at(uint64_t offset) const noexcept;
  io::task<Piece> locate(uint64_t offset, uint64_t length) override;
  io::task<void> read_compressed(Piece piece, uint64_t offset, Bytes destination) override;

  VmdkDescriptor descriptor_;
  std::vector<std::unique_ptr<block::Device>> files_;  // beside the image's own
  std::vector<VmdkExtent> extents_;                    // in the order of the disk, without gaps
  TableCache tables_;
};

}  // namespace cofre::foreign
