// What each message of a front end does. Source: QEMU, docs/interop/vhost-user.rst, "Front-end message
// types".
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/error.h"
#include "export/vhost_user_blk/session.h"

namespace cofre::vhost {
namespace {

constexpr uint64_t kProtocolFeatures = protocol_feature::kMultiQueue | protocol_feature::kReplyAck |
                                       protocol_feature::kConfig | protocol_feature::kInflightSharedMemory |
                                       protocol_feature::kResetDevice |
                                       protocol_feature::kConfigureMemorySlots;
// Regions of memory that one guest may have: more than QEMU gives one.
constexpr uint64_t kMostMemorySlots = 512;

template <typename T>
T payload_of(const Received& received) {
  const auto value = payload_as<T>(received.payload);
  if (!value) fail(ErrorKind::kInvalidArgument, "{} bytes instead of {}", received.payload.size(), sizeof(T));
  return *value;
}

template <typename T>
std::vector<std::byte> to_payload(const T& value) {
  const ConstBytes bytes = bytes_of(value);
  return {bytes.begin(), bytes.end()};
}

// An eventfd or a pipe, which a lane can wait for and which never blocks it.
std::shared_ptr<const OwnedFd> notifier(OwnedFd fd) {
  struct stat about = {};
  if (::fstat(fd.get(), &about) != 0) fail_errno(errno, "the descriptor");
  const bool anonymous = (about.st_mode & S_IFMT) == 0;  // as eventfds are
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if ((!anonymous && !S_ISFIFO(about.st_mode)) || flags < 0 ||
      ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    fail(ErrorKind::kInvalidArgument, "the descriptor is no eventfd and no pipe");
  return std::make_shared<const OwnedFd>(std::move(fd));
}

// Null: the front end says that there is none.
std::shared_ptr<const OwnedFd> notifier_of(Received& received, uint64_t value) {
  const bool none = (value & kNoDescriptorFlag) != 0;
  if (received.descriptors.size() != (none ? 0u : 1u))
    fail(ErrorKind::kInvalidArgument, "{} descriptors", received.descriptors.size());
  return none ? nullptr : notifier(std::move(received.descriptors[0]));
}

void require_empty(const Received& received) {
  if (!received.payload.empty())
    fail(ErrorKind::kInvalidArgument, "{} bytes too many", received.payload.size());
}

const OwnedFd& only_descriptor(const Received& received) {
  if (received.descriptors.size() != 1)
    fail(ErrorKind::kInvalidArgument, "{} descriptors instead of one", received.descriptors.size());
  return received.descriptors[0];
}

}  // namespace

// ---- the device ----

io::task<Session::Answer> Session::get_features(Received& received) {
  require_empty(received);
  co_return Answer{.given = true, .payload = to_payload(device_.features())};
}

io::task<Session::Answer> Session::set_features(Received& received) {
  const auto features = payload_of<uint64_t>(received);
  if ((features & ~device_.features()) != 0)
    fail(ErrorKind::kUnsupported, "features {:#x} were not offered", features & ~device_.features());
  if (features != features_) require_all_stopped(received.message());
  features_ = features;
  device_.set_features(features);
  co_return Answer{};
}

io::task<Session::Answer> Session::get_protocol_features(Received& received) {
  require_empty(received);
  co_return Answer{.given = true, .payload = to_payload(kProtocolFeatures)};
}

io::task<Session::Answer> Session::set_protocol_features(Received& received) {
  const auto features = payload_of<uint64_t>(received);
  if ((features & ~kProtocolFeatures) != 0)
    fail(ErrorKind::kUnsupported, "protocol features {:#x} were not offered", features & ~kProtocolFeatures);
  protocol_features_ = features;
  co_return Answer{};
}

io::task<Session::Answer> Session::set_owner(Received& received) {
  require_empty(received);
  co_return Answer{};
}

// No longer used; the specification recommends this.
io::task<Session::Answer> Session::reset_owner(Received& received) {
  require_empty(received);
  co_await stop_all();
  for (const auto& vring : vrings_) vring->enabled = false;
  co_return Answer{};
}

io::task<Session::Answer> Session::reset_device(Received& received) {
  require_empty(received);
  co_await stop_all();
  for (const auto& vring : vrings_) vring->forget();
  features_ = 0;
  device_.reset();
  if (inflight_) inflight_->clear();
  co_return Answer{};
}

io::task<Session::Answer> Session::get_queue_number(Received& received) {
  require_empty(received);
  co_return Answer{.given = true, .payload = to_payload(uint64_t{vrings_.size()})};
}

// An answer without payload is an error.
io::task<Session::Answer> Session::get_config(Received& received) {
  const auto access = payload_as<ConfigAccess>(received.payload, received.payload.size());
  if (!access || !range_within(access->offset, access->size, kMostConfigBytes) ||
      (received.payload.size() != sizeof(ConfigAccess) &&
       received.payload.size() != sizeof(ConfigAccess) + access->size))
    co_return Answer{.given = true};
  const auto config = device_.config();
  Answer answer = {.given = true, .payload = to_payload(*access)};
  const auto first = config.begin() + access->offset;
  answer.payload.insert(answer.payload.end(), first, first + access->size);
  co_return answer;
}

// Drivers write one byte of it. What a migration brings along is as it is here anyway, or wrong. Front ends
// do not agree on the flags of a plain write: QEMU sends 0, those of rust-vmm 1.
io::task<Session::Answer> Session::set_config(Received& received) {
  const auto access = payload_as<ConfigAccess>(received.payload, received.payload.size());
  if (!access || received.payload.size() != sizeof(ConfigAccess) + access->size)
    fail(ErrorKind::kInvalidArgument, "{} bytes", received.payload.size());
  const bool is_cache_mode = access->offset == kWritebackAt && access->size == 1;
  if (!is_cache_mode && access->flags == kConfigForMigration) co_return Answer{};
  if (!is_cache_mode)
    fail(ErrorKind::kInvalidArgument, "{} bytes at {} of the configuration cannot be changed", access->size,
         access->offset);
  device_.set_writeback(received.payload.back() != std::byte{0});
  co_return Answer{};
}

// ---- memory ----

io::task<Session::Answer> Session::set_memory_table(Received& received) {
  const auto regions = memory_table(received.payload);
  if (!regions || regions->size() != received.descriptors.size())
    fail(ErrorKind::kInvalidArgument, "{} bytes with {} descriptors", received.payload.size(),
         received.descriptors.size());
  std::shared_ptr<const GuestMemory> memory = std::make_shared<GuestMemory>();
  for (size_t i = 0; i < regions->size(); ++i) memory = memory->with((*regions)[i], received.descriptors[i]);
  co_await change_memory(std::move(memory));
  co_return Answer{};
}

io::task<Session::Answer> Session::get_memory_slots(Received& received) {
  require_empty(received);
  co_return Answer{.given = true, .payload = to_payload(kMostMemorySlots)};
}

io::task<Session::Answer> Session::add_memory_region(Received& received) {
  const auto slot = payload_of<SingleRegion>(received);
  if (memory_->regions() >= kMostMemorySlots)
    fail(ErrorKind::kLimit, "more than {} memory regions", kMostMemorySlots);
  co_await change_memory(memory_->with(slot.region, only_descriptor(received)));
  co_return Answer{};
}

io::task<Session::Answer> Session::remove_memory_region(Received& received) {
  co_await change_memory(memory_->without(payload_of<SingleRegion>(received).region));
  co_return Answer{};
}

// ---- what is in flight ----

namespace {

InflightDescription inflight_of(const Received& received) {
  const auto description = inflight_description(received.payload);
  if (!description) fail(ErrorKind::kInvalidArgument, "{} bytes", received.payload.size());
  return *description;
}

}  // namespace

io::task<Session::Answer> Session::get_inflight(Received& received) {
  const InflightDescription wanted = inflight_of(received);
  if (wanted.queues == 0 || wanted.queues > vrings_.size() || wanted.queue_size == 0 ||
      wanted.queue_size > device_.settings().queue_size)
    fail(ErrorKind::kInvalidArgument, "{} queues of {} descriptors", wanted.queues, wanted.queue_size);
  auto [file, area] = InflightArea::make(wanted.queues, wanted.queue_size);
  Answer answer = {.given = true, .payload = to_payload(area.description()), .descriptor = std::move(file)};
  answer.payload.resize(received.payload.size());
  co_return answer;
}

io::task<Session::Answer> Session::set_inflight(Received& received) {
  const InflightDescription given = inflight_of(received);
  require_all_stopped(received.message());
  inflight_ = std::make_shared<InflightArea>(only_descriptor(received), given);
  co_return Answer{};
}

// ---- queues ----

io::task<Session::Answer> Session::set_vring_size(Received& received) {
  const auto state = payload_of<VringState>(received);
  Vring& vring = this->vring(state.index);
  require_stopped(vring, received.message());
  if (state.number == 0 || state.number > device_.settings().queue_size)
    fail(ErrorKind::kInvalidArgument, "a ring of {} descriptors, at most {} are taken: --queue-size",
         state.number, device_.settings().queue_size);
  vring.size = static_cast<uint16_t>(state.number);
  co_return Answer{};
}

// While a queue runs its ring does not move; front ends say the same again to change flags.
io::task<Session::Answer> Session::set_vring_address(Received& received) {
  const auto address = payload_of<VringAddress>(received);
  Vring& vring = this->vring(address.index);
  const bool same = vring.address && vring.address->descriptors == address.descriptors &&
                    vring.address->available == address.available && vring.address->used == address.used;
  if (!same) require_stopped(vring, received.message());
  vring.address = address;
  co_await start_if_ready(vring);
  co_return Answer{};
}

io::task<Session::Answer> Session::set_vring_base(Received& received) {
  const auto state = payload_of<VringState>(received);
  Vring& vring = this->vring(state.index);
  require_stopped(vring, received.message());
  vring.base = state.number;
  co_return Answer{};
}

io::task<Session::Answer> Session::get_vring_base(Received& received) {
  const auto state = payload_of<VringState>(received);
  Vring& vring = this->vring(state.index);
  co_await stop(vring);
  vring.started = false;
  vring.kick = nullptr;
  co_return Answer{.given = true,
                   .payload = to_payload(VringState{.index = state.index, .number = vring.base})};
}

io::task<Session::Answer> Session::set_vring_enable(Received& received) {
  const auto state = payload_of<VringState>(received);
  Vring& vring = this->vring(state.index);
  if (state.number > 1) fail(ErrorKind::kInvalidArgument, "{} is neither on nor off", state.number);
  if (state.number == 0) co_await stop(vring);
  vring.enabled = state.number == 1;
  co_await start_if_ready(vring);
  co_return Answer{};
}

io::task<Session::Answer> Session::set_vring_kick(Received& received) {
  const auto value = payload_of<uint64_t>(received);
  Vring& vring = this->vring(value & kVringIndexMask);
  std::shared_ptr<const OwnedFd> kick = notifier_of(received, value);
  co_await stop(vring);
  vring.kick = std::move(kick);
  vring.started = true;
  co_await start_if_ready(vring);
  co_return Answer{};
}

io::task<Session::Answer> Session::set_vring_call(Received& received) {
  const auto value = payload_of<uint64_t>(received);
  Vring& vring = this->vring(value & kVringIndexMask);
  vring.call = notifier_of(received, value);
  co_await io::enter(lane_of(vring));
  if (vring.queue.running()) vring.queue.set_call(vring.call);
  co_await io::enter(lanes_.home());
  co_return Answer{};
}

io::task<Session::Answer> Session::set_vring_error(Received& received) {
  const auto value = payload_of<uint64_t>(received);
  Vring& vring = this->vring(value & kVringIndexMask);
  vring.error = notifier_of(received, value);
  co_await io::enter(lane_of(vring));
  if (vring.queue.running()) vring.queue.set_error(vring.error);
  co_await io::enter(lanes_.home());
  co_return Answer{};
}

}  // namespace cofre::vhost
