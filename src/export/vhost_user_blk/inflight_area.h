// The memory in which all queues of a device note what is in flight. It is made here, kept by the front end,
// and given back after a reconnection. See split_inflight.h and packed_inflight.h for what is in it.
#pragma once

#include <memory>
#include <utility>

#include "export/vhost_user_blk/guest_memory.h"

namespace cofre::vhost {

class InflightArea {
 public:
  // For so many queues of at most so many descriptors, which are bounded by the caller. Throws Error.
  static std::pair<OwnedFd, InflightArea> make(uint16_t queues, uint16_t queue_size);
  // One that the front end gives (back). Throws Error kInvalidArgument for one that is too small.
  InflightArea(const OwnedFd& file, const InflightDescription& description);

  // A queue's part, or null when there is none for it.
  std::byte* of_queue(uint32_t queue, uint16_t ring_size) const noexcept;
  // As if no server had used it.
  void clear() noexcept;
  bool lost() const noexcept { return mapping_->lost(); }
  const InflightDescription& description() const noexcept { return description_; }

 private:
  InflightDescription description_;
  std::unique_ptr<SharedMapping> mapping_;
};

}  // namespace cofre::vhost
