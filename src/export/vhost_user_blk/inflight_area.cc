#include "export/vhost_user_blk/inflight_area.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/error.h"
#include "export/vhost_user_blk/packed_inflight.h"
#include "export/vhost_user_blk/split_inflight.h"

namespace cofre::vhost {
namespace {

constexpr uint64_t kPartAlignment = 64;

// As large for one layout as for the other: which of them a ring has is known when it starts.
uint64_t part_bytes(uint16_t queue_size) {
  const size_t bytes =
      std::max(SplitInflight::area_bytes(queue_size), PackedInflight::area_bytes(queue_size));
  return align_up<uint64_t>(bytes, kPartAlignment);
}

}  // namespace

std::pair<OwnedFd, InflightArea> InflightArea::make(uint16_t queues, uint16_t queue_size) {
  OwnedFd file(::memfd_create("in-flight requests", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const InflightDescription description = {.map_size = part_bytes(queue_size) * queues,
                                           .map_offset = 0,
                                           .queues = queues,
                                           .queue_size = queue_size};
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(description.map_size)) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    fail_errno(errno, "cannot make memory to note what is in flight");
  InflightArea area(file, description);
  return {std::move(file), std::move(area)};
}

InflightArea::InflightArea(const OwnedFd& file, const InflightDescription& description)
    : description_(description) {
  if (description.queues == 0 || description.queue_size == 0 ||
      description.map_size < part_bytes(description.queue_size) * description.queues ||
      description.map_offset % kPartAlignment != 0)
    fail(ErrorKind::kInvalidArgument, "an in-flight area of {} bytes at offset {} for {} queues of {}",
         description.map_size, description.map_offset, description.queues, description.queue_size);
  mapping_ = std::make_unique<SharedMapping>(file.get(), description.map_offset, description.map_size);
}

std::byte* InflightArea::of_queue(uint32_t queue, uint16_t ring_size) const noexcept {
  if (queue >= description_.queues || ring_size > description_.queue_size) return nullptr;
  return mapping_->data() + part_bytes(description_.queue_size) * queue;
}

void InflightArea::clear() noexcept {
  std::fill_n(mapping_->data(), description_.map_size, std::byte{0});
}

}  // namespace cofre::vhost
