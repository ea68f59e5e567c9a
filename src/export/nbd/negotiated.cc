#include "export/nbd/negotiated.h"

#include "base/checked.h"

namespace cofre::nbd {
namespace {

// A payload that is too long is read and forgotten up to here, so that the client learns why.
constexpr uint64_t kMostSkippedBytes = 4 * uint64_t{kMaxPayloadBytes};

bool is_known(const RequestHeader& request) noexcept {
  return request.command <= static_cast<uint16_t>(Command::kBlockStatus);
}

bool is_write(const RequestHeader& request) noexcept {
  return request.is(Command::kWrite) || request.is(Command::kTrim) || request.is(Command::kWriteZeroes);
}

// FUA means nothing to a read, but clients are known to set it.
uint16_t allowed_flags(const RequestHeader& request, const Negotiated& agreed) noexcept {
  uint16_t allowed = command_flag::kFua;
  if (request.is(Command::kRead) && agreed.mode != HeaderMode::kSimple)
    allowed |= command_flag::kDontFragment;
  if (request.is(Command::kWrite) && agreed.mode == HeaderMode::kExtended)
    allowed |= command_flag::kPayloadLength;
  if (request.is(Command::kWriteZeroes)) allowed |= command_flag::kNoHole | command_flag::kFastZero;
  if (request.is(Command::kBlockStatus)) allowed |= command_flag::kRequestOne;
  return allowed;
}

// Requests need not keep to the smallest block: clients are known to trim less although they were told of it,
// and the device takes requests of any alignment.
Fault judge_range(const RequestHeader& request, const Negotiated& agreed) noexcept {
  if (range_within(request.offset, request.length, agreed.exported->device->length_bytes()))
    return Fault::kNone;
  return request.is(Command::kWrite) || request.is(Command::kWriteZeroes) ? Fault::kNoSpace : Fault::kInvalid;
}

Fault judge_command(const RequestHeader& request, const Negotiated& agreed) noexcept {
  if (!is_known(request) || (request.flags & ~allowed_flags(request, agreed)) != 0) return Fault::kInvalid;
  if (request.is(Command::kFlush)) return Fault::kNone;  // offset and length are reserved
  if (is_write(request) && agreed.exported->read_only) return Fault::kNotPermitted;
  const bool moves_bytes = request.is(Command::kRead) || request.is(Command::kWrite);
  if (moves_bytes && request.length > kMaxPayloadBytes) return Fault::kInvalid;
  if (request.is(Command::kBlockStatus) && (agreed.contexts.empty() || request.length == 0))
    return Fault::kInvalid;
  return judge_range(request, agreed);
}

}  // namespace

uint16_t transmission_flags(const exporting::Export& exported, HeaderMode mode) noexcept {
  namespace flag = transmission_flag;
  uint16_t flags = flag::kHasFlags | flag::kSendFlush | flag::kSendFua | flag::kSendCache;
  flags |=
      exported.read_only ? flag::kReadOnly : flag::kSendTrim | flag::kSendWriteZeroes | flag::kSendFastZero;
  if (mode != HeaderMode::kSimple) flags |= flag::kSendDontFragment;
  if (exported.multi_conn) flags |= flag::kCanMultiConn;
  return flags;
}

Verdict judge(const RequestHeader& request, const Negotiated& agreed) noexcept {
  Verdict verdict;
  const bool says_payload =
      agreed.mode == HeaderMode::kExtended && (request.flags & command_flag::kPayloadLength) != 0;
  if (request.is(Command::kWrite) || says_payload) verdict.payload_bytes = request.length;
  verdict.hang_up = verdict.payload_bytes > kMostSkippedBytes;
  verdict.fault = judge_command(request, agreed);
  return verdict;
}

}  // namespace cofre::nbd
