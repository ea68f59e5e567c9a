// What a virtio block device is: its features, its configuration space, and what each request does.
//
// Source: VIRTIO 1.2, 5.2.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <string>

#include "block/device.h"
#include "export/activity.h"
#include "export/vhost_user_blk/chain.h"
#include "export/vhost_user_blk/protocol.h"

namespace cofre::vhost {

namespace block_feature {
inline constexpr uint64_t kSegmentBytes = uint64_t{1} << 1;
inline constexpr uint64_t kSegments = uint64_t{1} << 2;
inline constexpr uint64_t kGeometry = uint64_t{1} << 4;
inline constexpr uint64_t kReadOnly = uint64_t{1} << 5;
inline constexpr uint64_t kBlockSize = uint64_t{1} << 6;
inline constexpr uint64_t kFlush = uint64_t{1} << 9;
inline constexpr uint64_t kTopology = uint64_t{1} << 10;
inline constexpr uint64_t kCacheMode = uint64_t{1} << 11;
inline constexpr uint64_t kMultiQueue = uint64_t{1} << 12;
inline constexpr uint64_t kDiscard = uint64_t{1} << 13;
inline constexpr uint64_t kWriteZeroes = uint64_t{1} << 14;
}  // namespace block_feature

enum class RequestType : uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};
enum class RequestStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

inline constexpr size_t kRequestHeaderBytes = 16;
inline constexpr size_t kSerialBytes = 20;
// Of discards and write-zeroes requests: ranges, and sectors in each.
inline constexpr uint32_t kMostRanges = 32;
inline constexpr uint32_t kMostRangeSectors = 4 * 1024 * 1024;
inline constexpr uint16_t kMostQueues = 256;
inline constexpr uint16_t kMostQueueSize = 32768;

struct DeviceSettings {
  std::string name = {};            // for messages
  block::Device* device = nullptr;  // requests of 512 bytes; outlives everything
  bool read_only = false;
  // Reads go through memory that the guest does not see. For encrypted images, which are decrypted where they
  // were read to: the guest must not see ciphertext, nor have what it puts in its place decrypted.
  bool private_reads = false;
  std::string serial = {};  // at most kSerialBytes
  uint16_t queues = 64;
  uint16_t queue_size = 1024;  // the most descriptors that a ring may have
  uint64_t poll_ns = 0;        // so long a queue is looked at without being asked to, after a request
  unsigned first_lane = 0;     // of queue 0; the others follow
  exporting::Activity* activity = nullptr;  // of the export; outlives everything, null: nobody counts
  std::function<void(const std::string&)> log = nullptr;  // any lane
};

// Where the configuration space holds whether writes may stay in a cache; the only byte that drivers write.
inline constexpr uint32_t kWritebackAt = 32;

// One device; any lane. What a driver sets of it is forgotten with reset().
class BlockDevice {
 public:
  explicit BlockDevice(DeviceSettings settings);

  const DeviceSettings& settings() const noexcept { return settings_; }
  uint64_t features() const noexcept { return features_; }
  std::array<std::byte, kMostConfigBytes> config() const;

  void reset();
  void set_features(uint64_t negotiated);
  void set_writeback(bool writeback);

  // Does what the request in `chain` says and writes its status. Throws Error kCorrupt for one that has no
  // place for its header or its status: the driver broke the rules. Changes the chain, which must stay until
  // then. `activity`: of this lane, or null.
  io::task<RequestStatus> carry_out(Chain& chain, exporting::LaneActivity* activity);

  void log(const std::string& line) const {
    if (settings_.log) settings_.log(settings_.name + ": " + line);
  }

 private:
  struct Header {
    RequestType type;
    uint32_t reserved;
    uint64_t sector;
  };
  bool within(uint64_t sector, uint64_t bytes) const noexcept;
  io::task<RequestStatus> dispatch(const Header& header, Chain& chain);
  static io::task<RequestStatus> done(RequestStatus status);
  io::task<RequestStatus> flush();
  io::task<RequestStatus> read(uint64_t sector, std::vector<Segment>& into);
  io::task<RequestStatus> write(uint64_t sector, std::vector<Segment>& from);
  io::task<RequestStatus> change_ranges(RequestType type, std::vector<Segment>& from);
  RequestStatus give_serial(std::vector<Segment>& into) const;
  void update_write_through() noexcept;

  const DeviceSettings settings_;
  const uint64_t capacity_sectors_;
  const uint64_t features_;
  uint64_t negotiated_ = 0;  // these two: the lane of the messages
  bool writeback_ = true;
  std::atomic<bool> write_through_ = true;
};

}  // namespace cofre::vhost
