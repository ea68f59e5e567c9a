#include "storage/nbd.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "storage/nbd_connection.h"

namespace cofre::storage {
namespace {

// Lengths are 32 bits on the wire; a whole number of any block stays so.
constexpr uint64_t kLargestRange = kGiB;
constexpr uint64_t kZeroBytes = kMiB;
constexpr uint32_t kHole = 1;  // flags of base:allocation
constexpr uint32_t kReadsZero = 2;

uint32_t request_alignment(const NbdExport& about) {
  if (about.smallest_block != 0) return static_cast<uint32_t>(about.smallest_block);
  return is_aligned<uint64_t>(about.length_bytes, kSectorBytes) ? kSectorBytes : 1;
}

}  // namespace

NbdDevice::NbdDevice(const NbdOptions& options)
    : name_(options.name), connection_(std::make_unique<NbdConnection>(options)) {
  const NbdExport& about = connection_->exported();
  if (about.read_only && !options.read_only)
    fail(ErrorKind::kReadOnly, "'{}': the NBD server offers this export for reading only", name_);
  read_only_ = options.read_only;
  length_ = about.length_bytes;
  limits_.request_alignment = request_alignment(about);
  if (!std::has_single_bit(limits_.request_alignment) || limits_.request_alignment > 64 * kKiB)
    fail(ErrorKind::kUnsupported, "'{}': the NBD server wants blocks of {} bytes", name_,
         about.smallest_block);
  largest_payload_ = align_down<uint64_t>(about.largest_payload, limits_.request_alignment);
  if (largest_payload_ == 0)
    fail(ErrorKind::kUnsupported, "'{}': the NBD server takes no request longer than {} bytes", name_,
         about.largest_payload);
  limits_.discard_alignment = limits_.request_alignment;
  limits_.preferred_bytes = std::clamp<uint64_t>(about.preferred_block, 64 * kKiB, largest_payload_);
  limits_.read_only = read_only_;
}

NbdDevice::~NbdDevice() = default;

std::unique_ptr<NbdDevice> NbdDevice::open(const NbdOptions& options) {
  return std::unique_ptr<NbdDevice>(new NbdDevice(options));
}

void NbdDevice::check_range(uint64_t offset, uint64_t length) const {
  if (!range_within(offset, length, length_))
    fail(ErrorKind::kNoSpace,
         "'{}': {} bytes at offset {} are past the export's end at {}, which cannot grow", name_, length,
         offset, length_);
}

void NbdDevice::check_writable(uint64_t offset, uint64_t length) const {
  if (read_only_) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name_);
  check_range(offset, length);
}

io::task<void> NbdDevice::read(uint64_t offset, Bytes destination) {
  check_range(offset, destination.size());
  while (!destination.empty()) {
    const Bytes part = destination.first(std::min<uint64_t>(destination.size(), largest_payload_));
    NbdRequest request = {
        .kind = NbdRequestKind::kRead, .offset = offset, .length = part.size(), .buffer = part.data()};
    co_await connection_->carry_out(request);
    offset += part.size();
    destination = destination.subspan(part.size());
  }
}

io::task<void> NbdDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  check_writable(offset, source.size());
  const bool fua = flags.fua && connection_->exported().can_fua;
  while (!source.empty()) {
    const ConstBytes part = source.first(std::min<uint64_t>(source.size(), largest_payload_));
    NbdRequest request = {.kind = NbdRequestKind::kWrite,
                          .flags = fua ? uint32_t{LIBNBD_CMD_FLAG_FUA} : 0,
                          .offset = offset,
                          .length = part.size(),
                          .buffer = const_cast<std::byte*>(part.data())};
    co_await connection_->carry_out(request);
    offset += part.size();
    source = source.subspan(part.size());
  }
  if (flags.fua && !fua) co_await flush();
}

io::task<void> NbdDevice::write_zero_bytes(uint64_t offset, uint64_t length) {
  AlignedBuffer zeroes(std::min(length, std::min(kZeroBytes, largest_payload_)));
  std::ranges::fill(zeroes.bytes(), std::byte{0});
  while (length > 0) {
    const uint64_t step = std::min<uint64_t>(length, zeroes.size());
    co_await write(offset, zeroes.bytes().first(step));
    offset += step;
    length -= step;
  }
}

io::task<void> NbdDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  check_writable(offset, length);
  const NbdExport& about = connection_->exported();
  if (flags.no_fallback && !(about.can_zero && about.can_fast_zero))
    fail(ErrorKind::kUnsupported, "'{}': the NBD server does not zero without writing", name_);
  const bool fua = flags.fua && about.can_fua && about.can_zero;
  uint32_t wire_flags = fua ? uint32_t{LIBNBD_CMD_FLAG_FUA} : 0;
  if (!flags.may_unmap) wire_flags |= LIBNBD_CMD_FLAG_NO_HOLE;
  if (flags.no_fallback) wire_flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
  if (!about.can_zero) co_await write_zero_bytes(offset, length);
  while (about.can_zero && length > 0) {
    const uint64_t step = std::min(length, kLargestRange);
    NbdRequest request = {
        .kind = NbdRequestKind::kZero, .flags = wire_flags, .offset = offset, .length = step};
    co_await connection_->carry_out(request);
    offset += step;
    length -= step;
  }
  if (flags.fua && !fua) co_await flush();
}

io::task<void> NbdDevice::discard(uint64_t offset, uint64_t length) {
  check_writable(offset, length);
  if (!connection_->exported().can_trim) co_return;
  while (length > 0) {
    const uint64_t step = std::min(length, kLargestRange);
    NbdRequest request = {.kind = NbdRequestKind::kTrim, .offset = offset, .length = step};
    co_await connection_->carry_out(request);
    offset += step;
    length -= step;
  }
}

io::task<void> NbdDevice::flush() {
  if (read_only_ || !connection_->exported().can_flush) co_return;
  NbdRequest request = {.kind = NbdRequestKind::kFlush};
  co_await connection_->carry_out(request);
}

io::task<block::Extent> NbdDevice::map(uint64_t offset, uint64_t length) {
  check_range(offset, length);
  block::Extent extent = {
      .length_bytes = length, .allocated = true, .data = true, .host_offset = offset, .host_name = name_};
  if (!connection_->exported().can_status) co_return extent;
  NbdRequest request = {
      .kind = NbdRequestKind::kStatus, .offset = offset, .length = std::min(length, kLargestRange)};
  co_await connection_->carry_out(request);
  // A server may tell of more than it was asked for, or end an extent within a block; what remains unsaid is
  // data.
  const uint64_t told = align_down<uint64_t>(request.status_bytes, limits_.request_alignment);
  if (!request.status_known || told == 0) {
    extent.length_bytes = std::min<uint64_t>(length, limits_.request_alignment);
    co_return extent;
  }
  extent.length_bytes = std::min(length, offset + request.status_bytes >= length_ ? length : told);
  extent.data = (request.status_flags & kHole) == 0;
  extent.zero = (request.status_flags & kReadsZero) != 0;
  co_return extent;
}

io::task<void> NbdDevice::resize(uint64_t length) {
  if (length == length_) co_return;
  fail(ErrorKind::kUnsupported, "'{}': an NBD export cannot be resized from here", name_);
}

io::task<void> NbdDevice::close() {
  co_await flush();
}

}  // namespace cofre::storage
