// One connection of a front end: answers its messages, and starts and stops queues as they say.
//
// Source: QEMU, docs/interop/vhost-user.rst. Lives on the lane that runs it; each queue lives on a lane of
// its own, as far as there are lanes.
#pragma once

#include <memory>
#include <vector>

#include "export/vhost_user_blk/message_socket.h"
#include "export/vhost_user_blk/queue.h"
#include "io/lanes.h"

namespace cofre::vhost {

class Session {
 public:
  // `device`, `lanes` and `cancel` outlive it. The device is reset.
  Session(OwnedFd socket, BlockDevice& device, io::Lanes& lanes, io::Cancel& cancel);

  // Until the front end is gone or `cancel` is requested; then all queues are stopped: what they took is
  // completed. Throws Error for a front end that breaks the protocol.
  io::task<void> run();

 private:
  // A queue, and what the front end said of it.
  struct Vring {
    Vring(BlockDevice& device, unsigned number, exporting::LaneActivity* activity)
        : queue(device, number, activity), index(number) {}
    // All that was said.
    void forget() noexcept;

    Queue queue;
    const unsigned index;
    uint16_t size = 0;
    uint32_t base = 0;
    std::optional<VringAddress> address;
    bool started = false;  // a kick descriptor came, or word that there is none
    bool enabled = false;
    std::shared_ptr<const OwnedFd> kick;
    std::shared_ptr<const OwnedFd> call;
    std::shared_ptr<const OwnedFd> error;
  };
  struct Answer {
    bool given = false;  // false: the message has none
    std::vector<std::byte> payload = {};
    OwnedFd descriptor = {};
  };
  using Handler = io::task<Answer> (Session::*)(Received&);
  struct Entry {
    Message message;
    Handler handler;
    size_t most_descriptors;
  };
  static const Entry* find(Message message) noexcept;

  io::task<void> exchange();
  io::task<void> answer(Received& received);
  io::task<Answer> handle(Received& received);

  io::task<Answer> get_features(Received& received);
  io::task<Answer> set_features(Received& received);
  io::task<Answer> get_protocol_features(Received& received);
  io::task<Answer> set_protocol_features(Received& received);
  io::task<Answer> set_owner(Received& received);
  io::task<Answer> reset_owner(Received& received);
  io::task<Answer> reset_device(Received& received);
  io::task<Answer> get_queue_number(Received& received);
  io::task<Answer> get_config(Received& received);
  io::task<Answer> set_config(Received& received);
  io::task<Answer> set_memory_table(Received& received);
  io::task<Answer> get_memory_slots(Received& received);
  io::task<Answer> add_memory_region(Received& received);
  io::task<Answer> remove_memory_region(Received& received);
  io::task<Answer> get_inflight(Received& received);
  io::task<Answer> set_inflight(Received& received);
  io::task<Answer> set_vring_size(Received& received);
  io::task<Answer> set_vring_address(Received& received);
  io::task<Answer> set_vring_base(Received& received);
  io::task<Answer> get_vring_base(Received& received);
  io::task<Answer> set_vring_enable(Received& received);
  io::task<Answer> set_vring_kick(Received& received);
  io::task<Answer> set_vring_call(Received& received);
  io::task<Answer> set_vring_error(Received& received);

  bool has(uint64_t feature) const noexcept { return (features_ & feature) != 0; }
  Vring& vring(uint64_t index);
  unsigned lane_number(unsigned queue) const noexcept;
  io::Reactor& lane_of(const Vring& vring);
  exporting::LaneActivity* activity_of(unsigned queue);
  void require_stopped(const Vring& vring, Message message) const;
  bool any_running() const noexcept;
  void require_all_stopped(Message message) const;
  RingPlace place_of(const Vring& vring) const;
  QueueStart start_of(const Vring& vring) const;
  io::task<void> start_if_ready(Vring& vring);
  io::task<void> stop(Vring& vring);
  io::task<void> stop_all();
  io::task<void> change_memory(std::shared_ptr<const GuestMemory> memory);

  BlockDevice& device_;
  io::Lanes& lanes_;
  MessageSocket socket_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  std::shared_ptr<const GuestMemory> memory_;
  std::shared_ptr<InflightArea> inflight_;
  std::vector<std::unique_ptr<Vring>> vrings_;
};

}  // namespace cofre::vhost
