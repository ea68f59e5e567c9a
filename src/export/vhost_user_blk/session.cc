#include "export/vhost_user_blk/session.h"

#include <algorithm>
#include <exception>

#include "base/error.h"

namespace cofre::vhost {
Session::Session(OwnedFd socket, BlockDevice& device, io::Lanes& lanes, io::Cancel& cancel)
    : device_(device),
      lanes_(lanes),
      socket_(std::move(socket), cancel),
      memory_(std::make_shared<GuestMemory>()) {
  device_.reset();
  for (unsigned i = 0; i < device_.settings().queues; ++i)
    vrings_.push_back(std::make_unique<Vring>(device_, i, activity_of(i)));
}

io::task<void> Session::run() {
  std::exception_ptr failure;
  try {
    co_await exchange();
  } catch (...) {
    failure = std::current_exception();
  }
  co_await stop_all();
  if (failure) std::rethrow_exception(failure);
}

io::task<void> Session::exchange() {
  while (true) {
    std::optional<Received> received = co_await socket_.receive();
    if (!received) co_return;
    co_await answer(*received);
    co_await io::yield();  // who always has something to say must not keep others from the lane
  }
}

// ---- messages ----

const Session::Entry* Session::find(Message message) noexcept {
  static const Entry kEntries[] = {
      {Message::kGetFeatures, &Session::get_features, 0},
      {Message::kSetFeatures, &Session::set_features, 0},
      {Message::kSetOwner, &Session::set_owner, 0},
      {Message::kResetOwner, &Session::reset_owner, 0},
      {Message::kSetMemoryTable, &Session::set_memory_table, kMostTableRegions},
      {Message::kSetVringSize, &Session::set_vring_size, 0},
      {Message::kSetVringAddress, &Session::set_vring_address, 0},
      {Message::kSetVringBase, &Session::set_vring_base, 0},
      {Message::kGetVringBase, &Session::get_vring_base, 0},
      {Message::kSetVringKick, &Session::set_vring_kick, 1},
      {Message::kSetVringCall, &Session::set_vring_call, 1},
      {Message::kSetVringError, &Session::set_vring_error, 1},
      {Message::kGetProtocolFeatures, &Session::get_protocol_features, 0},
      {Message::kSetProtocolFeatures, &Session::set_protocol_features, 0},
      {Message::kGetQueueNumber, &Session::get_queue_number, 0},
      {Message::kSetVringEnable, &Session::set_vring_enable, 0},
      {Message::kGetConfig, &Session::get_config, 0},
      {Message::kSetConfig, &Session::set_config, 0},
      {Message::kGetInflightFd, &Session::get_inflight, 0},
      {Message::kSetInflightFd, &Session::set_inflight, 1},
      {Message::kResetDevice, &Session::reset_device, 0},
      {Message::kGetMaximumMemorySlots, &Session::get_memory_slots, 0},
      {Message::kAddMemoryRegion, &Session::add_memory_region, 1},
      {Message::kRemoveMemoryRegion, &Session::remove_memory_region,
       1},  // that of some front ends is ignored
  };
  const auto found = std::ranges::find(kEntries, message, &Entry::message);
  return found != std::end(kEntries) ? found : nullptr;
}

io::task<Session::Answer> Session::handle(Received& received) {
  const Entry* const entry = find(received.message());
  if (entry == nullptr)
    fail(ErrorKind::kUnsupported, "the front end sent message {}, which is not known here",
         received.header.request);
  if (received.descriptors.size() > entry->most_descriptors)
    fail(ErrorKind::kInvalidArgument, "{} with {} descriptors, at most {} belong to it",
         name_of(received.message()), received.descriptors.size(), entry->most_descriptors);
  return (this->*entry->handler)(received);
}

// A front end that asks for it is told that a message failed, and may go on.
io::task<void> Session::answer(Received& received) {
  const bool wants_word = received.needs_reply() && (protocol_features_ & protocol_feature::kReplyAck) != 0;
  Answer answer;
  uint64_t failed = 0;
  try {
    answer = co_await handle(received);
  } catch (const Error& error) {
    if (!wants_word) throw error.with_context(name_of(received.message()));
    device_.log(fmt::format("{}: {}", name_of(received.message()), error.what()));
    failed = 1;
  }
  if (answer.given) {
    co_await socket_.reply(received.header.request, answer.payload, answer.descriptor.get());
  } else if (wants_word) {
    co_await socket_.reply(received.header.request, bytes_of(failed));
  }
}

// ---- queues ----

void Session::Vring::forget() noexcept {
  size = 0;
  base = 0;
  address.reset();
  started = enabled = false;
  kick = call = error = nullptr;
}

Session::Vring& Session::vring(uint64_t index) {
  if (index >= vrings_.size())
    fail(ErrorKind::kInvalidArgument, "queue {} of {}: --num-queues allows for more", index, vrings_.size());
  return *vrings_[index];
}

unsigned Session::lane_number(unsigned queue) const noexcept {
  return (device_.settings().first_lane + queue) % lanes_.count();
}

io::Reactor& Session::lane_of(const Vring& vring) {
  return lanes_.lane(lane_number(vring.index));
}

exporting::LaneActivity* Session::activity_of(unsigned queue) {
  exporting::Activity* const activity = device_.settings().activity;
  return activity != nullptr ? &activity->lane(lane_number(queue)) : nullptr;
}

void Session::require_stopped(const Vring& vring, Message message) const {
  if (vring.queue.running())
    fail(ErrorKind::kInvalidArgument, "{} while queue {} runs", name_of(message), vring.index);
}

bool Session::any_running() const noexcept {
  return std::ranges::any_of(vrings_, [](const auto& vring) { return vring->queue.running(); });
}

void Session::require_all_stopped(Message message) const {
  if (any_running()) fail(ErrorKind::kInvalidArgument, "{} while queues run", name_of(message));
}

// Alignments: VIRTIO 1.2, 2.7 and 2.8.
RingPlace Session::place_of(const Vring& vring) const {
  const bool packed = has(feature::kRingPacked);
  const RingBytes bytes = ring_bytes(vring.size, packed);
  const auto find = [&](const char* what, uint64_t address, uint64_t length, uintptr_t alignment) {
    std::byte* const found = memory_->at_user_address(address, length);
    if (found == nullptr || reinterpret_cast<uintptr_t>(found) % alignment != 0)
      fail(ErrorKind::kInvalidArgument, "queue {}: {} of {} bytes at {:#x} lie in no memory, or not aligned",
           vring.index, what, length, address);
    return found;
  };
  return {.descriptors = find("descriptors", vring.address->descriptors, bytes.descriptors, 16),
          .driver = find("the driver's area", vring.address->available, bytes.driver, packed ? 4 : 2),
          .device = find("the device's area", vring.address->used, bytes.device, 4)};
}

QueueStart Session::start_of(const Vring& vring) const {
  std::byte* inflight = nullptr;
  if (inflight_) {
    inflight = inflight_->of_queue(vring.index, vring.size);
    if (inflight == nullptr)
      fail(ErrorKind::kInvalidArgument, "queue {} of {} descriptors has no place in the in-flight area",
           vring.index, vring.size);
  }
  return {.ring = {.place = place_of(vring),
                   .size = vring.size,
                   .indirect = has(feature::kIndirectDescriptors),
                   .event_index = has(feature::kEventIndex),
                   .base = vring.base,
                   .memory = memory_.get(),
                   .inflight = inflight},
          .packed = has(feature::kRingPacked),
          .memory = memory_,
          .inflight = inflight_,
          .kick = vring.kick,
          .call = vring.call,
          .error = vring.error};
}

// Without protocol features there is no SET_VRING_ENABLE: then a ring is enabled once it starts.
io::task<void> Session::start_if_ready(Vring& vring) {
  const bool enabled = vring.enabled || !has(feature::kProtocolFeatures);
  if (vring.queue.running() || !vring.started || !enabled || !vring.address || vring.size == 0) co_return;
  QueueStart start = start_of(vring);
  std::exception_ptr failure;
  co_await io::enter(lane_of(vring));
  try {
    vring.queue.start(std::move(start));
  } catch (...) {
    failure = std::current_exception();
  }
  co_await io::enter(lanes_.home());
  if (failure) std::rethrow_exception(failure);
}

io::task<void> Session::stop(Vring& vring) {
  if (!vring.queue.running()) co_return;
  co_await io::enter(lane_of(vring));
  const uint32_t base = co_await vring.queue.stop();
  co_await io::enter(lanes_.home());
  vring.base = base;
}

io::task<void> Session::stop_all() {
  for (const auto& vring : vrings_) co_await stop(*vring);
}

// Queues stand still meanwhile: requests in flight are done with the memory as it was.
io::task<void> Session::change_memory(std::shared_ptr<const GuestMemory> memory) {
  std::vector<Vring*> running;
  for (const auto& vring : vrings_) {
    if (!vring->queue.running()) continue;
    running.push_back(vring.get());
    co_await stop(*vring);
  }
  memory_ = std::move(memory);
  for (Vring* vring : running) co_await start_if_ready(*vring);
}

}  // namespace cofre::vhost
