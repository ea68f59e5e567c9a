#include "export/vhost_front_end.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace cofre::vhost::testing {
namespace {

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;
constexpr uint16_t kPackedAvailable = 1 << 7;
constexpr uint16_t kPackedUsed = 1 << 15;

[[noreturn]] void fail_call(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

uint16_t load16(const std::byte* at, std::memory_order order = std::memory_order_relaxed) {
  auto* const value = reinterpret_cast<uint16_t*>(const_cast<std::byte*>(at));
  return std::atomic_ref<uint16_t>(*value).load(order);
}
void store16(std::byte* at, uint16_t value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at)).store(value, order);
}
bool passes(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

size_t align(size_t value, size_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

// ---- memory ----

TestMemory::TestMemory(size_t bytes)
    : bytes_(bytes), half_(bytes / 2), file_(::memfd_create("guest", MFD_CLOEXEC)), next_upper_(half_) {
  if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) fail_call("memfd");
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (mapped == MAP_FAILED) fail_call("mmap");
  data_ = static_cast<std::byte*>(mapped);
}

TestMemory::~TestMemory() {
  ::munmap(data_, bytes_);
}

uint64_t TestMemory::allocate(size_t bytes, size_t alignment, bool upper) {
  size_t& next = upper ? next_upper_ : next_lower_;
  const size_t start = align(next, alignment);
  next = start + bytes;
  if (next > (upper ? bytes_ : half_)) throw std::runtime_error("the guest is out of memory");
  return upper ? kUpperGuest + (start - half_) : start;
}

std::byte* TestMemory::at(uint64_t guest) {
  return data_ + (guest >= kUpperGuest ? guest - kUpperGuest + half_ : guest);
}

uint64_t TestMemory::user_address(uint64_t guest) const {
  return kUser + (guest >= kUpperGuest ? guest - kUpperGuest + half_ : guest);
}

std::vector<MemoryRegion> TestMemory::regions() const {
  return {{.guest_address = 0, .size = half_, .user_address = kUser, .map_offset = 0},
          {.guest_address = kUpperGuest,
           .size = bytes_ - half_,
           .user_address = kUser + half_,
           .map_offset = half_}};
}

// ---- a virtqueue ----

DriverQueue::DriverQueue(TestMemory& memory, uint16_t size, Features features)
    : memory_(memory),
      size_(size),
      features_(features),
      descriptors_(memory.allocate(size_t{16} * size, 4096)),
      driver_(memory.allocate(features.packed ? 4 : size_t{6} + 2 * size, 4096)),
      device_(memory.allocate(features.packed ? 4 : size_t{6} + 8 * size, 4096)),
      tables_(memory.allocate(size * kTableEntries * 16, 4096)),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      error_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      free_(size),
      free_count_(size),
      slots_(size) {
  std::iota(free_.rbegin(), free_.rend(), uint16_t{0});
}

VringAddress DriverQueue::address(uint32_t index) const {
  return {.index = index,
          .descriptors = memory_.user_address(descriptors_),
          .used = memory_.user_address(device_),
          .available = memory_.user_address(driver_)};
}

void DriverQueue::kick() const {
  const uint64_t one = 1;
  if (::write(kick_.get(), &one, sizeof one) < 0 && errno != EAGAIN) fail_call("kick");
}

std::optional<uint16_t> DriverQueue::add(std::span<const GuestBuffer> buffers, bool indirect) {
  const size_t needed = indirect ? 1 : buffers.size();
  if (needed > free_count_ || free_.empty()) return std::nullopt;
  const uint64_t table = indirect ? table_of(free_.back()) : 0;
  if (indirect) write_table(table, buffers);
  free_count_ = static_cast<uint16_t>(free_count_ - needed);
  const std::array<GuestBuffer, 1> one = {
      GuestBuffer{.guest = table, .length = static_cast<uint32_t>(buffers.size() * 16)}};
  const std::span<const GuestBuffer> direct = indirect ? std::span<const GuestBuffer>(one) : buffers;
  return features_.packed ? add_packed(direct, table) : add_split(direct, table);
}

void DriverQueue::write_table(uint64_t table, std::span<const GuestBuffer> buffers) {
  if (buffers.size() > kTableEntries) throw std::runtime_error("a table is too small");
  for (size_t i = 0; i < buffers.size(); ++i) {
    std::byte* const at = memory_.at(table) + i * 16;
    const bool last = i + 1 == buffers.size();
    const auto flags = static_cast<uint16_t>((buffers[i].device_writes ? kWrite : 0) |
                                             (last || features_.packed ? 0 : kNext));
    store_le(at, buffers[i].guest);
    store_le(at + 8, buffers[i].length);
    store_le(at + 12, features_.packed ? uint16_t{0} : flags);
    store_le(at + 14, features_.packed ? flags : static_cast<uint16_t>(i + 1));
  }
}

std::optional<uint16_t> DriverQueue::add_split(std::span<const GuestBuffer> buffers, uint64_t table) {
  std::vector<uint16_t> indices;
  for (size_t i = 0; i < buffers.size(); ++i) {
    indices.push_back(free_.back());
    free_.pop_back();
  }
  const uint16_t head = indices[0];
  for (size_t i = 0; i < buffers.size(); ++i) {
    std::byte* const at = memory_.at(descriptors_) + size_t{indices[i]} * 16;
    const bool last = i + 1 == buffers.size();
    store_le(at, buffers[i].guest);
    store_le(at + 8, buffers[i].length);
    store_le(at + 12, static_cast<uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last ? 0 : kNext) |
                                            (table != 0 ? kIndirect : 0)));
    store_le(at + 14, last ? uint16_t{0} : indices[i + 1]);
  }
  store16(memory_.at(driver_) + 4 + size_t{2} * (next_ % size_), head);
  ++next_;
  slots_[head] = {.descriptors = static_cast<uint16_t>(buffers.size()), .indices = std::move(indices)};
  return head;
}

std::optional<uint16_t> DriverQueue::add_packed(std::span<const GuestBuffer> buffers, uint64_t table) {
  const uint16_t id = free_.back();
  free_.pop_back();
  for (size_t i = 0; i < buffers.size(); ++i) {
    std::byte* const at = memory_.at(descriptors_) + size_t{next_} * 16;
    const bool last = i + 1 == buffers.size();
    const auto flags =
        static_cast<uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last ? 0 : kNext) |
                              (table != 0 ? kIndirect : 0) | (next_wrap_ ? kPackedAvailable : kPackedUsed));
    store_le(at, buffers[i].guest);
    store_le(at + 8, buffers[i].length);
    store_le(at + 12, id);
    if (!held_flags_) {
      held_flags_ = {next_, flags};
    } else {
      store16(at + 14, flags, std::memory_order_release);
    }
    if (++next_ == size_) {
      next_ = 0;
      next_wrap_ = !next_wrap_;
    }
  }
  added_ = static_cast<uint16_t>(added_ + buffers.size());
  slots_[id].descriptors = static_cast<uint16_t>(buffers.size());
  return id;
}

bool DriverQueue::publish() {
  if (!features_.packed) {
    store16(memory_.at(driver_) + 2, next_, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t before = std::exchange(published_, next_);
    if (!features_.event_index) return (load16(memory_.at(device_)) & 1) == 0 && before != next_;
    return passes(load16(memory_.at(device_) + 4 + size_t{8} * size_), next_, before);
  }
  if (!held_flags_) return false;
  store16(memory_.at(descriptors_) + size_t{held_flags_->first} * 16 + 14, held_flags_->second,
          std::memory_order_release);
  held_flags_.reset();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t added = std::exchange(added_, uint16_t{0});
  const uint16_t flags = load16(memory_.at(device_) + 2);
  if (flags != 2) return flags == 0;
  const uint16_t event = load16(memory_.at(device_));
  int at = event & 0x7fff;
  if (((event & 0x8000) != 0) != next_wrap_) at -= size_;
  return passes(static_cast<uint16_t>(at), next_, static_cast<uint16_t>(next_ - added));
}

std::optional<UsedBuffer> DriverQueue::take_used() {
  UsedBuffer found;
  if (!features_.packed) {
    if (load16(memory_.at(device_) + 2, std::memory_order_acquire) == used_) return std::nullopt;
    const std::byte* const at = memory_.at(device_) + 4 + size_t{8} * (used_ % size_);
    found = {.id = static_cast<uint16_t>(load_le<uint32_t>(at)), .length = load_le<uint32_t>(at + 4)};
    ++used_;
    for (const uint16_t index : slots_.at(found.id).indices) free_.push_back(index);
    free_count_ = static_cast<uint16_t>(free_count_ + slots_[found.id].descriptors);
    slots_[found.id] = {};
    return found;
  }
  const std::byte* const at = memory_.at(descriptors_) + size_t{used_} * 16;
  const uint16_t flags = load16(at + 14, std::memory_order_acquire);
  if (((flags & kPackedAvailable) != 0) != used_wrap_ || ((flags & kPackedUsed) != 0) != used_wrap_)
    return std::nullopt;
  found = {.id = load_le<uint16_t>(at + 12), .length = load_le<uint32_t>(at + 8)};
  const uint16_t taken = slots_.at(found.id).descriptors;
  if (taken == 0) throw std::runtime_error("the device used a buffer that it was not given");
  used_ = static_cast<uint16_t>(used_ + taken);
  if (used_ >= size_) {
    used_ = static_cast<uint16_t>(used_ - size_);
    used_wrap_ = !used_wrap_;
  }
  free_count_ = static_cast<uint16_t>(free_count_ + taken);
  free_.push_back(found.id);
  slots_[found.id] = {};
  return found;
}

bool DriverQueue::request_calls() {
  if (!features_.packed) {
    if (features_.event_index) {
      store16(memory_.at(driver_) + 4 + size_t{2} * size_, used_);
    } else {
      store16(memory_.at(driver_), 0);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return load16(memory_.at(device_) + 2, std::memory_order_acquire) == used_;
  }
  store16(memory_.at(driver_), static_cast<uint16_t>(used_ | (used_wrap_ ? 0x8000 : 0)));
  store16(memory_.at(driver_) + 2, features_.event_index ? 2 : 0, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t flags =
      load16(memory_.at(descriptors_) + size_t{used_} * 16 + 14, std::memory_order_acquire);
  return ((flags & kPackedAvailable) != 0) != used_wrap_ || ((flags & kPackedUsed) != 0) != used_wrap_;
}

void DriverQueue::suppress_calls() {
  if (features_.packed) {
    store16(memory_.at(driver_) + 2, 1);
  } else if (!features_.event_index) {
    store16(memory_.at(driver_), 1);
  }
}

// ---- messages ----

FrontEnd FrontEnd::connect(const std::string& path) {
  OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("the path is too long");
  std::memcpy(&address.sun_path[0], path.data(), path.size());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    fail_call("connect");
  return FrontEnd(std::move(fd));
}

void FrontEnd::send(Message message, ConstBytes payload, std::span<const int> fds, uint32_t flags) {
  std::vector<std::byte> whole(kHeaderBytes + payload.size());
  const Header header = {.request = static_cast<uint32_t>(message),
                         .flags = kVersion | flags,
                         .size = static_cast<uint32_t>(payload.size())};
  std::memcpy(whole.data(), &header, kHeaderBytes);
  std::ranges::copy(payload, whole.begin() + kHeaderBytes);
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  iovec piece = {whole.data(), whole.size()};
  msghdr about = {};
  about.msg_iov = &piece;
  about.msg_iovlen = 1;
  if (!fds.empty()) {
    about.msg_control = control.data();
    about.msg_controllen = control.size();
    cmsghdr* const part = CMSG_FIRSTHDR(&about);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  }
  if (::sendmsg(socket_.get(), &about, MSG_NOSIGNAL) != static_cast<ssize_t>(whole.size()))
    fail_call("sendmsg");
}

std::optional<Reply> FrontEnd::receive() {
  Reply reply;
  std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  iovec piece = {&reply.header, kHeaderBytes};
  msghdr about = {};
  about.msg_iov = &piece;
  about.msg_iovlen = 1;
  about.msg_control = control.data();
  about.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket_.get(), &about, MSG_WAITALL | MSG_CMSG_CLOEXEC);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return std::nullopt;
  if (got != kHeaderBytes) fail_call("recvmsg");
  if (const cmsghdr* part = CMSG_FIRSTHDR(&about); part != nullptr && part->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
    reply.descriptors.emplace_back(fd);
  }
  reply.payload.resize(reply.header.size);
  if (!reply.payload.empty() && ::recv(socket_.get(), reply.payload.data(), reply.payload.size(),
                                       MSG_WAITALL) != static_cast<ssize_t>(reply.payload.size()))
    fail_call("recv");
  return reply;
}

Reply FrontEnd::ask(Message message, ConstBytes payload) {
  send(message, payload);
  std::optional<Reply> reply = receive();
  if (!reply) throw std::runtime_error("the device hung up");
  if (reply->header.request != static_cast<uint32_t>(message) || (reply->header.flags & kReplyFlag) == 0)
    throw std::runtime_error("a reply to something else");
  return std::move(*reply);
}

bool FrontEnd::acknowledged(Message message, ConstBytes payload, std::span<const int> fds) {
  send(message, payload, fds, kNeedReplyFlag);
  const std::optional<Reply> reply = receive();
  if (!reply) throw std::runtime_error("the device hung up");
  return reply->as<uint64_t>() == 0;
}

uint64_t FrontEnd::negotiate(uint64_t unwanted) {
  const uint64_t features = ask(Message::kGetFeatures).as<uint64_t>() & ~unwanted;
  send_value(Message::kSetProtocolFeatures, ask(Message::kGetProtocolFeatures).as<uint64_t>());
  send(Message::kSetOwner);
  send_value(Message::kSetFeatures, features);
  return features;
}

void FrontEnd::share(TestMemory& memory) {
  const std::vector<MemoryRegion> regions = memory.regions();
  std::vector<std::byte> payload(8 + regions.size() * sizeof(MemoryRegion));
  store_le(payload.data(), static_cast<uint32_t>(regions.size()));
  std::memcpy(payload.data() + 8, regions.data(), regions.size() * sizeof(MemoryRegion));
  const std::vector<int> fds(regions.size(), memory.fd());
  send(Message::kSetMemoryTable, payload, fds);
}

void FrontEnd::set_up(uint32_t index, DriverQueue& queue, uint32_t base) {
  send_value(Message::kSetVringSize, VringState{.index = index, .number = queue.size()});
  send_value(Message::kSetVringBase, VringState{.index = index, .number = base});
  send_value(Message::kSetVringAddress, queue.address(index));
  const std::array<int, 1> call = {queue.call_fd()};
  send_value(Message::kSetVringCall, uint64_t{index}, call);
  const std::array<int, 1> error = {queue.error_fd()};
  send_value(Message::kSetVringError, uint64_t{index}, error);
  const std::array<int, 1> kick = {queue.kick_fd()};
  send_value(Message::kSetVringKick, uint64_t{index}, kick);
  send_value(Message::kSetVringEnable, VringState{.index = index, .number = 1});
}

uint32_t FrontEnd::stop(uint32_t index) {
  const VringState state = {.index = index, .number = 0};
  return ask(Message::kGetVringBase, bytes_of(state)).as<VringState>().number;
}

std::vector<std::byte> FrontEnd::config(uint32_t offset, uint32_t size) {
  std::vector<std::byte> payload(sizeof(ConfigAccess) + size);
  const ConfigAccess access = {.offset = offset, .size = size};
  std::memcpy(payload.data(), &access, sizeof access);
  std::vector<std::byte> whole = ask(Message::kGetConfig, payload).payload;
  if (whole.size() < sizeof access) return {};
  whole.erase(whole.begin(), whole.begin() + sizeof access);
  return whole;
}

// ---- requests ----

BlockRequest::BlockRequest(TestMemory& memory, uint32_t data_bytes, bool upper)
    : memory_(&memory),
      header_(memory.allocate(kRequestHeaderBytes)),
      data_(memory.allocate(data_bytes, 4096, upper)),
      status_(memory.allocate(1, 1)) {}

std::span<const GuestBuffer> BlockRequest::make(RequestType type, uint64_t sector, uint32_t bytes,
                                                uint32_t pieces) {
  std::byte* const header = memory_->at(header_);
  store_le(header, static_cast<uint32_t>(type));
  store_le(header + 4, uint32_t{0});
  store_le(header + 8, sector);
  *memory_->at(status_) = std::byte{0xee};
  const bool device_writes = type == RequestType::kIn || type == RequestType::kGetId;
  buffers_.assign(1, {.guest = header_, .length = kRequestHeaderBytes});
  for (uint32_t i = 0; i < pieces && bytes > 0; ++i) {
    const uint32_t begin = static_cast<uint32_t>(uint64_t{bytes} * i / pieces);
    const uint32_t end = static_cast<uint32_t>(uint64_t{bytes} * (i + 1) / pieces);
    if (begin < end)
      buffers_.push_back({.guest = data_ + begin, .length = end - begin, .device_writes = device_writes});
  }
  buffers_.push_back({.guest = status_, .length = 1, .device_writes = true});
  return buffers_;
}

}  // namespace cofre::vhost::testing
