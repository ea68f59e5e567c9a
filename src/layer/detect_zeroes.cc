#include "layer/detect_zeroes.h"

#include "layer/filter.h"

namespace cofre::layer {
namespace {

class DetectZeroes final : public Filter {
 public:
  DetectZeroes(std::unique_ptr<block::Device> below, bool may_unmap)
      : Filter(std::move(below)), may_unmap_(may_unmap) {}

  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    if (flags.compressed || !is_zero(source)) return inner().write(offset, source, flags);
    return inner().write_zeroes(offset, source.size(), {.fua = flags.fua, .may_unmap = may_unmap_});
  }

 private:
  bool may_unmap_;
};

}  // namespace

std::unique_ptr<block::Device> make_detect_zeroes(std::unique_ptr<block::Device> inner, bool may_unmap) {
  return std::make_unique<DetectZeroes>(std::move(inner), may_unmap);
}

}  // namespace cofre::layer
