// One virtqueue at work: takes what the driver makes available, has it carried out, tells the driver.
//
// Lives on one lane; everything belongs to it but the constructor. Many requests are in flight at a time.
// What is available is taken at once; what is done is published in parts, or when the lane gets round to it,
// with one call. While there is something to do the driver need not kick.
#pragma once

#include <memory>
#include <vector>

#include "export/vhost_user_blk/block_device.h"
#include "export/vhost_user_blk/inflight_area.h"
#include "export/vhost_user_blk/ring.h"
#include "io/poll.h"
#include "io/sync.h"

namespace cofre::vhost {

// What a queue needs to run.
struct QueueStart {
  RingSetup ring;
  bool packed = false;
  std::shared_ptr<const GuestMemory> memory;
  std::shared_ptr<const InflightArea> inflight;  // or null
  std::shared_ptr<const OwnedFd> kick;           // null: the ring is looked at now and then
  std::shared_ptr<const OwnedFd> call;           // these two may be null: nobody is told
  std::shared_ptr<const OwnedFd> error;
};

class Queue {
 public:
  // `activity`: of the lane that it lives on, or null.
  Queue(BlockDevice& device, unsigned index, exporting::LaneActivity* activity)
      : device_(device), index_(index), activity_(activity) {}
  ~Queue();

  bool running() const noexcept { return ring_ != nullptr; }
  // Throws Error for a ring that cannot be; then nothing runs.
  void start(QueueStart start);
  // Takes nothing more, completes what was taken; gives the position to go on from.
  io::task<uint32_t> stop();
  void set_call(std::shared_ptr<const OwnedFd> call) { start_.call = std::move(call); }
  void set_error(std::shared_ptr<const OwnedFd> error) { start_.error = std::move(error); }

 private:
  struct Request {
    Chain chain;
    uint32_t written_bytes = 0;
    Request* next_free = nullptr;
  };

  static io::detail::Detached run(Queue& queue);
  static io::detail::Detached serve(Queue& queue, Request& request);
  static io::detail::Detached publish_soon(Queue& queue);
  bool may_go_on();
  template <typename Take>
  bool begin_some(Take take);
  void begin(Request& request);
  void finish(Request& request);
  void publish();
  io::task<void> wait_for_kick();
  void break_down(const std::string& why);
  Request& allocate();
  void release(Request& request) noexcept;
  bool at_rest() const noexcept { return !looping_ && in_flight_ == 0 && !publishing_; }

  BlockDevice& device_;
  const unsigned index_;
  exporting::LaneActivity* const activity_;
  QueueStart start_;
  std::unique_ptr<Ring> ring_;
  std::vector<std::unique_ptr<Request>> requests_;
  Request* free_ = nullptr;
  size_t in_flight_ = 0;
  unsigned unpublished_ = 0;  // at most, of requests that are done

  bool looping_ = false;
  bool waiting_ = false;     // for a kick
  bool publishing_ = false;  // somebody will
  bool stopping_ = false;
  bool broken_ = false;  // until the driver resets the device
  std::unique_ptr<io::Cancel> cancel_;
  io::WaitQueue rest_;
};

}  // namespace cofre::vhost
