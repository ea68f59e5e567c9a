#include "export/status_sources.h"

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"
#include "format/qcow2/bitmap_actions.h"

namespace cofre::exporting {
namespace {

constexpr uint64_t kHole = 1;
constexpr uint64_t kZero = 2;

// Layers are asked about whole sectors, clients ask about bytes.
io::task<block::ChainExtent> chain_extent(block::Device& device, uint64_t offset, uint64_t length) {
  const uint64_t first = align_down<uint64_t>(offset, kSectorBytes);
  const uint64_t end = std::min(align_up<uint64_t>(offset + length, kSectorBytes), device.length_bytes());
  block::ChainExtent found = co_await block::map_chain(device, first, end - first);
  found.extent.length_bytes = std::min(found.extent.length_bytes - (offset - first), length);
  co_return found;
}

// Zeros past the end of a backing file: they are its own, not the overlay's.
io::task<bool> past_short_backing(const block::ChainExtent& found, uint64_t offset) {
  const block::Device* const backing = found.layer->backing();
  if (!found.extent.allocated || backing == nullptr || offset < backing->length_bytes()) co_return false;
  const uint64_t first = align_down<uint64_t>(offset, kSectorBytes);
  const uint64_t bytes = std::min<uint64_t>(kSectorBytes, found.layer->length_bytes() - first);
  const block::Extent own = co_await found.layer->map(first, bytes);
  co_return !own.allocated;
}

class AllocationStatus final : public StatusSource {
 public:
  explicit AllocationStatus(block::Device& device) : device_(device) {}
  const std::string& name() const override { return name_; }
  io::task<StatusRun> status(uint64_t offset, uint64_t length) override {
    const block::ChainExtent found = co_await chain_extent(device_, offset, length);
    const block::Extent& extent = found.extent;
    const bool data = extent.allocated && extent.data;
    const bool zero = extent.zero || !extent.allocated;
    co_return StatusRun{.length_bytes = extent.length_bytes,
                        .status = (data ? 0 : kHole) | (zero ? kZero : 0)};
  }

 private:
  block::Device& device_;
  std::string name_ = "base:allocation";
};

class DepthStatus final : public StatusSource {
 public:
  explicit DepthStatus(block::Device& device) : device_(device) {}
  const std::string& name() const override { return name_; }
  io::task<StatusRun> status(uint64_t offset, uint64_t length) override {
    const block::ChainExtent found = co_await chain_extent(device_, offset, length);
    uint64_t depth = found.extent.allocated ? uint64_t{found.depth} + 1 : 0;
    if (co_await past_short_backing(found, offset)) ++depth;
    co_return StatusRun{.length_bytes = found.extent.length_bytes, .status = depth};
  }

 private:
  block::Device& device_;
  std::string name_ = "qemu:allocation-depth";
};

class BitmapStatus final : public StatusSource {
 public:
  BitmapStatus(const qcow2::DirtyBitmap& bits, const std::string& bitmap)
      : bits_(bits), name_("qemu:dirty-bitmap:" + bitmap) {}
  const std::string& name() const override { return name_; }
  io::task<StatusRun> status(uint64_t offset, uint64_t length) override {
    const uint64_t dirty = bits_.next_dirty(offset);
    const uint64_t end = dirty > offset ? dirty : bits_.next_clean(offset);
    co_return StatusRun{.length_bytes = std::min(end - offset, length), .status = dirty > offset ? 0u : 1u};
  }

 private:
  const qcow2::DirtyBitmap& bits_;
  std::string name_;
};

}  // namespace

io::task<std::shared_ptr<StatusSource>> make_bitmap_status(qcow2::Image& image, std::string name) {
  const qcow2::DirtyBitmap* const bits = co_await qcow2::live_bitmap(image, name);
  co_return std::make_shared<BitmapStatus>(*bits, name);
}

std::unique_ptr<StatusSource> make_allocation_status(block::Device& device) {
  return std::make_unique<AllocationStatus>(device);
}

std::unique_ptr<StatusSource> make_depth_status(block::Device& device) {
  return std::make_unique<DepthStatus>(device);
}

}  // namespace cofre::exporting
