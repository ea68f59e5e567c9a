#include "export/nbd/protocol.h"

#include <cerrno>

namespace cofre::nbd {
namespace {

constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;
constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

}  // namespace

std::optional<RequestHeader> decode_request(ConstBytes bytes, HeaderMode mode) noexcept {
  const bool extended = mode == HeaderMode::kExtended;
  const std::byte* const at = bytes.data();
  if (load_be<uint32_t>(at) != (extended ? kExtendedRequestMagic : kRequestMagic)) return std::nullopt;
  return RequestHeader{.flags = load_be<uint16_t>(at + 4),
                       .command = load_be<uint16_t>(at + 6),
                       .cookie = load_be<uint64_t>(at + 8),
                       .offset = load_be<uint64_t>(at + 16),
                       .length = extended ? load_be<uint64_t>(at + 24) : load_be<uint32_t>(at + 24)};
}

void encode_simple_reply(std::byte* into, Fault fault, uint64_t cookie) noexcept {
  store_be(into, kSimpleReplyMagic);
  store_be(into + 4, static_cast<uint32_t>(fault));
  store_be(into + 8, cookie);
}

void encode_chunk(std::byte* into, HeaderMode mode, uint16_t flags, Chunk type, const RequestHeader& request,
                  uint64_t payload_bytes) noexcept {
  const bool extended = mode == HeaderMode::kExtended;
  store_be(into, extended ? kExtendedReplyMagic : kStructuredReplyMagic);
  store_be(into + 4, flags);
  store_be(into + 6, static_cast<uint16_t>(type));
  store_be(into + 8, request.cookie);
  if (extended) {
    store_be(into + 16, request.offset);
    store_be(into + 24, payload_bytes);
  } else {
    store_be(into + 16, static_cast<uint32_t>(payload_bytes));
  }
}

Fault fault_of_errno(int errno_value) noexcept {
  switch (errno_value) {
    case EPERM:
    case EACCES:
    case EROFS:
      return Fault::kNotPermitted;
    case ENOMEM:
      return Fault::kNoMemory;
    case EINVAL:
      return Fault::kInvalid;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Fault::kNoSpace;
    case EOVERFLOW:
      return Fault::kOverflow;
    case EOPNOTSUPP:
    case ENOSYS:
      return Fault::kNotSupported;
    case ESHUTDOWN:
    case ECANCELED:
      return Fault::kShutdown;
    default:
      return Fault::kIo;
  }
}

const char* fault_text(Fault fault) noexcept {
  switch (fault) {
    case Fault::kNotPermitted:
      return "the export is read-only";
    case Fault::kNoMemory:
      return "out of memory";
    case Fault::kInvalid:
      return "invalid request";
    case Fault::kNoSpace:
      return "no space left";
    case Fault::kOverflow:
      return "request too large";
    case Fault::kNotSupported:
      return "not supported";
    case Fault::kShutdown:
      return "the server is shutting down";
    case Fault::kNone:
    case Fault::kIo:
      break;
  }
  return "input/output error";
}

}  // namespace cofre::nbd
