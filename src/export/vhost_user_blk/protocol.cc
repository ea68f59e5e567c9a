#include "export/vhost_user_blk/protocol.h"

namespace cofre::vhost {

const char* name_of(Message message) noexcept {
  switch (message) {
    case Message::kGetFeatures:
      return "GET_FEATURES";
    case Message::kSetFeatures:
      return "SET_FEATURES";
    case Message::kSetOwner:
      return "SET_OWNER";
    case Message::kResetOwner:
      return "RESET_OWNER";
    case Message::kSetMemoryTable:
      return "SET_MEM_TABLE";
    case Message::kSetVringSize:
      return "SET_VRING_NUM";
    case Message::kSetVringAddress:
      return "SET_VRING_ADDR";
    case Message::kSetVringBase:
      return "SET_VRING_BASE";
    case Message::kGetVringBase:
      return "GET_VRING_BASE";
    case Message::kSetVringKick:
      return "SET_VRING_KICK";
    case Message::kSetVringCall:
      return "SET_VRING_CALL";
    case Message::kSetVringError:
      return "SET_VRING_ERR";
    case Message::kGetProtocolFeatures:
      return "GET_PROTOCOL_FEATURES";
    case Message::kSetProtocolFeatures:
      return "SET_PROTOCOL_FEATURES";
    case Message::kGetQueueNumber:
      return "GET_QUEUE_NUM";
    case Message::kSetVringEnable:
      return "SET_VRING_ENABLE";
    case Message::kGetConfig:
      return "GET_CONFIG";
    case Message::kSetConfig:
      return "SET_CONFIG";
    case Message::kGetInflightFd:
      return "GET_INFLIGHT_FD";
    case Message::kSetInflightFd:
      return "SET_INFLIGHT_FD";
    case Message::kResetDevice:
      return "RESET_DEVICE";
    case Message::kGetMaximumMemorySlots:
      return "GET_MAX_MEM_SLOTS";
    case Message::kAddMemoryRegion:
      return "ADD_MEM_REG";
    case Message::kRemoveMemoryRegion:
      return "REM_MEM_REG";
  }
  return "a message that is not known here";
}

std::optional<InflightDescription> inflight_description(ConstBytes payload) {
  if (payload.size() != kInflightBytes && payload.size() != sizeof(InflightDescription)) return std::nullopt;
  InflightDescription area;
  std::memcpy(&area, payload.data(), kInflightBytes);
  return area;
}

std::optional<std::vector<MemoryRegion>> memory_table(ConstBytes payload) {
  constexpr size_t kCountBytes = 8;  // and padding
  if (payload.size() < kCountBytes) return std::nullopt;
  const auto count = load_native<uint32_t>(payload.data());
  if (count > kMostTableRegions) return std::nullopt;
  // The table may be sent whole, with room for more regions than there are.
  const size_t needed = kCountBytes + count * sizeof(MemoryRegion);
  const size_t whole = kCountBytes + kMostTableRegions * sizeof(MemoryRegion);
  if (payload.size() != needed && payload.size() != whole) return std::nullopt;
  std::vector<MemoryRegion> regions(count);
  if (count > 0) std::memcpy(regions.data(), payload.data() + kCountBytes, count * sizeof(MemoryRegion));
  return regions;
}

}  // namespace cofre::vhost
