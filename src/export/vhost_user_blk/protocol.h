// The messages of the vhost-user protocol that a block device answers: numbers, sizes, payloads. No I/O.
//
// Source: QEMU, docs/interop/vhost-user.rst. All integers are in the byte order of the machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/bytes.h"

namespace cofre::vhost {

enum class Message : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemoryTable = 5,
  kSetVringSize = 8,
  kSetVringAddress = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringError = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNumber = 17,
  kSetVringEnable = 18,
  kGetConfig = 24,
  kSetConfig = 25,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kResetDevice = 34,
  kGetMaximumMemorySlots = 36,
  kAddMemoryRegion = 37,
  kRemoveMemoryRegion = 38,
};

// As people find it in the specification: "SET_VRING_KICK".
const char* name_of(Message message) noexcept;

// Features of the device that are the transport's own. VIRTIO 1.2, 6; vhost-user, "Communication".
namespace feature {
inline constexpr uint64_t kIndirectDescriptors = uint64_t{1} << 28;
inline constexpr uint64_t kEventIndex = uint64_t{1} << 29;
inline constexpr uint64_t kProtocolFeatures = uint64_t{1} << 30;
inline constexpr uint64_t kVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kRingPacked = uint64_t{1} << 34;
}  // namespace feature

namespace protocol_feature {
inline constexpr uint64_t kMultiQueue = uint64_t{1} << 0;
inline constexpr uint64_t kReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kConfig = uint64_t{1} << 9;
inline constexpr uint64_t kInflightSharedMemory = uint64_t{1} << 12;
inline constexpr uint64_t kResetDevice = uint64_t{1} << 13;
inline constexpr uint64_t kConfigureMemorySlots = uint64_t{1} << 15;
}  // namespace protocol_feature

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of the payload, bytes
};
inline constexpr size_t kHeaderBytes = 12;
static_assert(sizeof(Header) == kHeaderBytes);
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kReplyFlag = 1u << 2;
inline constexpr uint32_t kNeedReplyFlag = 1u << 3;

struct VringState {
  uint32_t index = 0;
  uint32_t number = 0;
};
struct VringAddress {
  uint32_t index = 0;
  uint32_t flags = 0;
  uint64_t descriptors = 0;  // these three: user addresses of the front end
  uint64_t used = 0;
  uint64_t available = 0;
  uint64_t log = 0;  // guest address, for the log of dirty pages
};
struct MemoryRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;  // bytes
  uint64_t user_address = 0;
  uint64_t map_offset = 0;  // where it starts in its file
};
struct SingleRegion {
  uint64_t padding = 0;
  MemoryRegion region;
};
struct ConfigAccess {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;
};
inline constexpr uint32_t kConfigForMigration = 1;
struct InflightDescription {
  uint64_t map_size = 0;
  uint64_t map_offset = 0;
  uint16_t queues = 0;
  uint16_t queue_size = 0;
};

inline constexpr size_t kMostTableRegions = 8;  // of one SET_MEM_TABLE
inline constexpr size_t kMostConfigBytes = 256;
inline constexpr size_t kMostDescriptors = kMostTableRegions;  // with one message
// No message that is answered here is longer.
inline constexpr uint32_t kMostPayloadBytes = 1024;

// A vring's number and whether a descriptor comes along: SET_VRING_KICK, _CALL, _ERR.
inline constexpr uint64_t kVringIndexMask = 0xff;
inline constexpr uint64_t kNoDescriptorFlag = 0x100;

// The payload's first bytes as a T, or nothing when it is not `exact_bytes` long.
template <typename T>
  requires std::is_trivially_copyable_v<T>
std::optional<T> payload_as(ConstBytes payload, size_t exact_bytes = sizeof(T)) {
  if (payload.size() != exact_bytes || exact_bytes < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, payload.data(), sizeof value);
  return value;
}

template <typename T>
  requires std::is_trivially_copyable_v<T>
ConstBytes bytes_of(const T& value) {
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}

// InflightDescription ends with padding that is not part of the message; some front ends send it all the
// same.
inline constexpr size_t kInflightBytes = 20;
std::optional<InflightDescription> inflight_description(ConstBytes payload);

// Nothing when the payload's length and the number of regions in it do not agree.
std::optional<std::vector<MemoryRegion>> memory_table(ConstBytes payload);

}  // namespace cofre::vhost
