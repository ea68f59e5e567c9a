// The other side of vhost-user-blk: a front end and a driver of block devices, for tests and measurements.
//
// Written from the specifications alone. Everything blocks; one thread. Failures of the socket throw
// std::runtime_error.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "export/vhost_user_blk/block_device.h"
#include "export/vhost_user_blk/protocol.h"

namespace cofre::vhost::testing {

// A guest's memory: a memfd, mapped here, that the guest sees as two regions with a hole between them.
class TestMemory {
 public:
  explicit TestMemory(size_t bytes);
  ~TestMemory();
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;

  int fd() const noexcept { return file_.get(); }
  size_t size() const noexcept { return bytes_; }
  std::byte* data() noexcept { return data_; }
  // In a region, aligned; each allocation is in one piece. `upper`: in the second region.
  uint64_t allocate(size_t bytes, size_t alignment = 16, bool upper = false);
  std::byte* at(uint64_t guest);
  uint64_t user_address(uint64_t guest) const;
  std::vector<MemoryRegion> regions() const;
  uint64_t lower_end() const noexcept { return half_; }

  static constexpr uint64_t kUpperGuest = 0x1'0000'0000;
  static constexpr uint64_t kUser = 0x7000'0000'0000;

 private:
  size_t bytes_;
  size_t half_;
  OwnedFd file_;
  std::byte* data_;
  size_t next_lower_ = 4096;
  size_t next_upper_;
};

struct GuestBuffer {
  uint64_t guest = 0;
  uint32_t length = 0;
  bool device_writes = false;
};
struct UsedBuffer {
  uint16_t id = 0;
  uint32_t length = 0;
};

// A driver's end of a virtqueue.
class DriverQueue {
 public:
  struct Features {
    bool packed = false;
    bool event_index = false;
  };
  DriverQueue(TestMemory& memory, uint16_t size, Features features);

  uint16_t size() const noexcept { return size_; }
  VringAddress address(uint32_t index) const;
  uint16_t free_descriptors() const noexcept { return free_count_; }

  // Makes a request; its id, or nothing while the ring is full. Not visible before publish().
  std::optional<uint16_t> add(std::span<const GuestBuffer> buffers, bool indirect = false);
  // True: the device wants a kick.
  bool publish();
  // The next request that the device has done.
  std::optional<UsedBuffer> take_used();
  // Whether the device should call for what it does from now on. False: something is done already.
  bool request_calls();
  void suppress_calls();

  int kick_fd() const noexcept { return kick_.get(); }
  int call_fd() const noexcept { return call_.get(); }
  int error_fd() const noexcept { return error_.get(); }
  void kick() const;

  // For those who break the rules.
  std::byte* descriptors() { return memory_.at(descriptors_); }
  std::byte* driver_area() { return memory_.at(driver_); }
  std::byte* device_area() { return memory_.at(device_); }

 private:
  static constexpr size_t kTableEntries = 64;
  struct Slot {
    uint16_t descriptors = 0;
    std::vector<uint16_t> indices;  // split
  };
  std::optional<uint16_t> add_split(std::span<const GuestBuffer> buffers, uint64_t table);
  std::optional<uint16_t> add_packed(std::span<const GuestBuffer> buffers, uint64_t table);
  void write_table(uint64_t table, std::span<const GuestBuffer> buffers);
  uint64_t table_of(uint16_t id) const { return tables_ + uint64_t{id} * kTableEntries * 16; }

  TestMemory& memory_;
  uint16_t size_;
  Features features_;
  uint64_t descriptors_;
  uint64_t driver_;
  uint64_t device_;
  uint64_t tables_;
  OwnedFd kick_;
  OwnedFd call_;
  OwnedFd error_;

  std::vector<uint16_t> free_;  // split: descriptors; packed: ids
  uint16_t free_count_;
  std::vector<Slot> slots_;
  uint16_t next_ = 0;       // split: index of the available ring; packed: of the ring
  bool next_wrap_ = true;   // packed
  uint16_t published_ = 0;  // split
  uint16_t used_ = 0;
  bool used_wrap_ = true;
  // Packed: flags of the first descriptor since publish(), written last.
  std::optional<std::pair<uint16_t, uint16_t>> held_flags_;
  uint16_t added_ = 0;  // descriptors since publish()
};

struct Reply {
  Header header;
  std::vector<std::byte> payload;
  std::vector<OwnedFd> descriptors;

  template <typename T>
  T as() const {
    T value;
    if (payload.size() < sizeof value) throw std::runtime_error("a reply is too short");
    std::memcpy(&value, payload.data(), sizeof value);
    return value;
  }
};

class FrontEnd {
 public:
  explicit FrontEnd(OwnedFd socket) : socket_(std::move(socket)) {}
  static FrontEnd connect(const std::string& path);

  void send(Message message, ConstBytes payload = {}, std::span<const int> fds = {}, uint32_t flags = 0);
  template <typename T>
  void send_value(Message message, const T& value, std::span<const int> fds = {}) {
    send(message, bytes_of(value), fds);
  }
  // Nothing: the device hung up.
  std::optional<Reply> receive();
  Reply ask(Message message, ConstBytes payload = {});
  // Sends with need_reply; true: the device says that it went well.
  bool acknowledged(Message message, ConstBytes payload = {}, std::span<const int> fds = {});

  // What every front end does first. Gives the features that were negotiated.
  uint64_t negotiate(uint64_t unwanted = 0);
  void share(TestMemory& memory);
  void set_up(uint32_t index, DriverQueue& queue, uint32_t base);
  // Position of a ring that was never used, as SET_VRING_BASE has it.
  static uint32_t first_base(bool packed) { return packed ? 0x8000'8000u : 0; }
  uint32_t stop(uint32_t index);
  std::vector<std::byte> config(uint32_t offset, uint32_t size);
  void hang_up() { socket_.reset(); }

 private:
  OwnedFd socket_;
};

// One request of a block device, and memory for it.
class BlockRequest {
 public:
  BlockRequest(TestMemory& memory, uint32_t data_bytes, bool upper = false);

  std::byte* data() { return memory_->at(data_); }
  RequestStatus status() const { return static_cast<RequestStatus>(*memory_->at(status_)); }
  // The descriptors of a request on the first `bytes` of the data, which is cut into `pieces`.
  std::span<const GuestBuffer> make(RequestType type, uint64_t sector, uint32_t bytes, uint32_t pieces = 1);
  uint64_t data_guest() const noexcept { return data_; }

 private:
  TestMemory* memory_;
  uint64_t header_;
  uint64_t data_;
  uint64_t status_;
  std::vector<GuestBuffer> buffers_;
};

}  // namespace cofre::vhost::testing
