// What each request of a virtio block device does. Source: VIRTIO 1.2, 5.2.6.
#include <algorithm>
#include <new>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/units.h"
#include "export/vhost_user_blk/block_device.h"

namespace cofre::vhost {
namespace {

// Longer requests go in pieces: what a request holds is bounded, whatever the guest asks for.
constexpr uint64_t kPieceBytes = kMiB;

constexpr uint32_t kUnmapFlag = 1;

struct Range {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(Range) == 16);

// Walks over runs of bytes, and copies from and to them.
class Cursor {
 public:
  explicit Cursor(const std::vector<Segment>& segments) : segments_(segments) {}

  // The next bytes where they are, if `length` of them are in one piece.
  std::byte* in_one_piece(size_t length) {
    const Segment& segment = segments_[index_];
    if (segment.length - done_ < length) return nullptr;
    std::byte* const data = segment.data + done_;
    advance(length);
    return data;
  }
  void copy_to(Bytes into) {
    for_each_piece(into.size(), [&](std::byte* piece, size_t done, size_t length) {
      std::memcpy(into.data() + done, piece, length);
    });
  }
  void copy_from(ConstBytes from) {
    for_each_piece(from.size(), [&](std::byte* piece, size_t done, size_t length) {
      std::memcpy(piece, from.data() + done, length);
    });
  }

 private:
  void advance(size_t length) {
    done_ += length;
    if (done_ < segments_[index_].length) return;
    ++index_;
    done_ = 0;
  }
  template <typename Copy>
  void for_each_piece(size_t total, Copy copy) {
    for (size_t done = 0; done < total;) {
      const Segment& segment = segments_[index_];
      const size_t length = std::min(total - done, segment.length - done_);
      copy(segment.data + done_, done, length);
      done += length;
      advance(length);
    }
  }

  const std::vector<Segment>& segments_;
  size_t index_ = 0;
  size_t done_ = 0;  // of segments_[index_]
};

// Drivers may cut a request into descriptors as they like: the first bytes of what is readable are the
// header, the last of what is writable is the status.
void take_front(std::vector<Segment>& segments, Bytes into) {
  Cursor(segments).copy_to(into);
  size_t left = into.size();
  auto kept = segments.begin();
  for (; kept != segments.end() && left >= kept->length; ++kept) left -= kept->length;
  if (kept != segments.end()) {
    kept->data += left;
    kept->length -= left;
  }
  segments.erase(segments.begin(), kept);
}

exporting::Op op_of(RequestType type) noexcept {
  switch (type) {
    case RequestType::kIn:
      return exporting::Op::kRead;
    case RequestType::kOut:
      return exporting::Op::kWrite;
    case RequestType::kFlush:
      return exporting::Op::kFlush;
    case RequestType::kDiscard:
      return exporting::Op::kDiscard;
    case RequestType::kWriteZeroes:
      return exporting::Op::kWriteZeroes;
    case RequestType::kGetId:
      break;
  }
  return exporting::Op::kOther;
}

std::byte* take_last_byte(std::vector<Segment>& segments) {
  Segment& last = segments.back();
  std::byte* const byte = last.data + --last.length;
  if (last.length == 0) segments.pop_back();
  return byte;
}

}  // namespace

io::task<RequestStatus> BlockDevice::carry_out(Chain& chain, exporting::LaneActivity* activity) {
  if (total_bytes(chain.readable) < kRequestHeaderBytes || chain.writable.empty())
    fail(ErrorKind::kCorrupt, "a request without room for a header and a status");
  Header header;
  take_front(chain.readable, {reinterpret_cast<std::byte*>(&header), sizeof header});
  std::byte* const status_at = take_last_byte(chain.writable);
  const exporting::Op op = op_of(header.type);
  const uint64_t bytes = op == exporting::Op::kRead    ? total_bytes(chain.writable)
                         : op == exporting::Op::kWrite ? total_bytes(chain.readable)
                                                       : 0;
  exporting::LaneActivity::Begun begun;
  if (activity != nullptr) begun = activity->begin(op);
  RequestStatus status = RequestStatus::kIoError;
  try {
    status = co_await dispatch(header, chain);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kUnsupported) status = RequestStatus::kUnsupported;
    log(error.what());
  } catch (const std::bad_alloc&) {
    log("no memory for a request");
  }
  if (activity != nullptr) activity->end(begun, bytes, status != RequestStatus::kOk);
  *status_at = static_cast<std::byte>(status);
  co_return status;
}

io::task<RequestStatus> BlockDevice::dispatch(const Header& header, Chain& chain) {
  switch (header.type) {
    case RequestType::kIn:
      return read(header.sector, chain.writable);
    case RequestType::kOut:
      return write(header.sector, chain.readable);
    case RequestType::kDiscard:
    case RequestType::kWriteZeroes:
      return change_ranges(header.type, chain.readable);
    case RequestType::kGetId:
      return done(give_serial(chain.writable));
    case RequestType::kFlush:
      return flush();
  }
  return done(RequestStatus::kUnsupported);
}

io::task<RequestStatus> BlockDevice::done(RequestStatus status) {
  co_return status;
}

io::task<RequestStatus> BlockDevice::flush() {
  co_await settings_.device->flush();
  co_return RequestStatus::kOk;
}

io::task<RequestStatus> BlockDevice::read(uint64_t sector, std::vector<Segment>& into) {
  const uint64_t total = total_bytes(into);
  if (!within(sector, total)) co_return RequestStatus::kIoError;
  AlignedBuffer buffer;
  Cursor cursor(into);
  for (uint64_t done = 0; done < total;) {
    const uint64_t piece = std::min(total - done, kPieceBytes);
    const uint64_t offset = sector * kSectorBytes + done;
    std::byte* const direct = settings_.private_reads ? nullptr : cursor.in_one_piece(piece);
    if (direct != nullptr) {
      co_await settings_.device->read(offset, {direct, piece});
    } else {
      if (!buffer) buffer = AlignedBuffer(std::min(total, kPieceBytes));
      co_await settings_.device->read(offset, buffer.bytes().first(piece));
      cursor.copy_from(std::as_const(buffer).bytes().first(piece));
    }
    done += piece;
  }
  co_return RequestStatus::kOk;
}

io::task<RequestStatus> BlockDevice::write(uint64_t sector, std::vector<Segment>& from) {
  const uint64_t total = total_bytes(from);
  if (settings_.read_only || !within(sector, total)) co_return RequestStatus::kIoError;
  const block::WriteFlags flags = {.fua = write_through_.load(std::memory_order_acquire)};
  AlignedBuffer buffer;
  Cursor cursor(from);
  for (uint64_t done = 0; done < total;) {
    const uint64_t piece = std::min(total - done, kPieceBytes);
    const uint64_t offset = sector * kSectorBytes + done;
    const std::byte* source = cursor.in_one_piece(piece);
    if (source == nullptr) {
      if (!buffer) buffer = AlignedBuffer(std::min(total, kPieceBytes));
      cursor.copy_to(buffer.bytes().first(piece));
      source = buffer.data();
    }
    co_await settings_.device->write(offset, {source, piece}, flags);
    done += piece;
  }
  co_return RequestStatus::kOk;
}

// VIRTIO 1.2, 5.2.6.2: a discard with the unmap flag, and flags that are not known, are not supported.
io::task<RequestStatus> BlockDevice::change_ranges(RequestType type, std::vector<Segment>& from) {
  const uint64_t total = total_bytes(from);
  if (settings_.read_only || total % sizeof(Range) != 0 || total > kMostRanges * sizeof(Range))
    co_return RequestStatus::kIoError;
  std::array<Range, kMostRanges> ranges;
  const size_t count = total / sizeof(Range);
  Cursor(from).copy_to(Bytes(reinterpret_cast<std::byte*>(ranges.data()), total));
  const bool zeroes = type == RequestType::kWriteZeroes;
  for (size_t i = 0; i < count; ++i) {
    if ((ranges[i].flags & ~(zeroes ? kUnmapFlag : 0)) != 0) co_return RequestStatus::kUnsupported;
    if (ranges[i].sectors > kMostRangeSectors ||
        !within(ranges[i].sector, uint64_t{ranges[i].sectors} * kSectorBytes))
      co_return RequestStatus::kIoError;
  }
  for (size_t i = 0; i < count; ++i) {
    const uint64_t offset = ranges[i].sector * kSectorBytes;
    const uint64_t length = uint64_t{ranges[i].sectors} * kSectorBytes;
    if (zeroes) {
      co_await settings_.device->write_zeroes(offset, length,
                                              {.may_unmap = (ranges[i].flags & kUnmapFlag) != 0});
    } else {
      co_await settings_.device->discard(offset, length);
    }
  }
  if (write_through_.load(std::memory_order_acquire)) co_await settings_.device->flush();
  co_return RequestStatus::kOk;
}

RequestStatus BlockDevice::give_serial(std::vector<Segment>& into) const {
  std::array<std::byte, kSerialBytes> text = {};
  std::memcpy(text.data(), settings_.serial.data(), std::min(settings_.serial.size(), text.size()));
  const uint64_t room = std::min<uint64_t>(total_bytes(into), text.size());
  Cursor(into).copy_from(ConstBytes(text).first(room));
  return RequestStatus::kOk;
}

}  // namespace cofre::vhost
