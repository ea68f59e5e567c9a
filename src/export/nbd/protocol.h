// The numbers and headers of the NBD protocol. Source: the NBD protocol specification ("proto.md").
//
// All integers on the wire are big-endian. Codecs without I/O; any lane.
#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/units.h"

namespace cofre::nbd {

inline constexpr uint16_t kDefaultPort = 10809;

// ---- handshake phase ----
inline constexpr uint64_t kServerMagic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;

// Handshake flags, and the client's answer to them.
inline constexpr uint16_t kFixedNewstyle = 1 << 0;
inline constexpr uint16_t kNoZeroes = 1 << 1;
inline constexpr size_t kReservedZeroes = 124;

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11,
};

enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrorUnsupported = 0x80000001,
  kErrorPolicy = 0x80000002,
  kErrorInvalid = 0x80000003,
  kErrorTlsRequired = 0x80000005,
  kErrorUnknown = 0x80000006,
  kErrorShutdown = 0x80000007,
  kErrorBlockSizeRequired = 0x80000008,
  kErrorTooBig = 0x80000009,
  kErrorExtendedHeadersRequired = 0x8000000a,
};

enum class Info : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

// A string of the protocol (export names, queries) has at most so many bytes.
inline constexpr uint32_t kMaxStringBytes = 4096;

// ---- transmission phase ----
namespace transmission_flag {
inline constexpr uint16_t kHasFlags = 1 << 0;
inline constexpr uint16_t kReadOnly = 1 << 1;
inline constexpr uint16_t kSendFlush = 1 << 2;
inline constexpr uint16_t kSendFua = 1 << 3;
inline constexpr uint16_t kSendTrim = 1 << 5;
inline constexpr uint16_t kSendWriteZeroes = 1 << 6;
inline constexpr uint16_t kSendDontFragment = 1 << 7;
inline constexpr uint16_t kCanMultiConn = 1 << 8;
inline constexpr uint16_t kSendCache = 1 << 10;
inline constexpr uint16_t kSendFastZero = 1 << 11;
}  // namespace transmission_flag

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

namespace command_flag {
inline constexpr uint16_t kFua = 1 << 0;
inline constexpr uint16_t kNoHole = 1 << 1;
inline constexpr uint16_t kDontFragment = 1 << 2;
inline constexpr uint16_t kRequestOne = 1 << 3;
inline constexpr uint16_t kFastZero = 1 << 4;
inline constexpr uint16_t kPayloadLength = 1 << 5;  // with extended headers
}  // namespace command_flag

enum class Chunk : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kBlockStatusExtended = 6,
  kError = 0x8001,
};
inline constexpr uint16_t kChunkDone = 1 << 0;

// base:allocation
inline constexpr uint32_t kStateHole = 1 << 0;
inline constexpr uint32_t kStateZero = 1 << 1;

// The errors that the protocol knows. They are on no system's account: numbers of the protocol.
enum class Fault : uint32_t {
  kNone = 0,
  kNotPermitted = 1,
  kIo = 5,
  kNoMemory = 12,
  kInvalid = 22,
  kNoSpace = 28,
  kOverflow = 75,
  kNotSupported = 95,
  kShutdown = 108,
};

// The longest read, and the longest payload of a write.
inline constexpr uint32_t kMaxPayloadBytes = 32 * kMiB;

// What the two sides agreed on for headers. Extended ones have 64-bit lengths, and imply structured replies.
enum class HeaderMode : uint8_t { kSimple, kStructured, kExtended };

struct RequestHeader {
  uint16_t flags = 0;
  uint16_t command = 0;  // a Command, or none that is known
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;

  bool is(Command wanted) const noexcept { return command == static_cast<uint16_t>(wanted); }
};

inline constexpr size_t kMaxRequestHeaderBytes = 32;
constexpr size_t request_header_bytes(HeaderMode mode) noexcept {
  return mode == HeaderMode::kExtended ? 32 : 28;
}
// `bytes` has request_header_bytes(mode). Nothing: the magic number is not there.
std::optional<RequestHeader> decode_request(ConstBytes bytes, HeaderMode mode) noexcept;

inline constexpr size_t kSimpleReplyBytes = 16;
inline constexpr size_t kMaxChunkHeaderBytes = 32;
constexpr size_t chunk_header_bytes(HeaderMode mode) noexcept {
  return mode == HeaderMode::kExtended ? 32 : 20;
}
void encode_simple_reply(std::byte* into, Fault fault, uint64_t cookie) noexcept;
// The header of a chunk in answer to `request`, in structured or extended mode.
void encode_chunk(std::byte* into, HeaderMode mode, uint16_t flags, Chunk type, const RequestHeader& request,
                  uint64_t payload_bytes) noexcept;

// An errno as the client is told of it.
Fault fault_of_errno(int errno_value) noexcept;
// A few words for people.
const char* fault_text(Fault fault) noexcept;

}  // namespace cofre::nbd
