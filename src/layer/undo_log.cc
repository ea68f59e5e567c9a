#include "layer/undo_log.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <string_view>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::layer {
namespace {

constexpr std::string_view kMagic = "COFREUND";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kRecordMark = 0x52454331;  // "REC1"
constexpr uint32_t kEndMark = 0x454e4431;     // "END1"
// Offsets within the header, and within a record.
constexpr size_t kVersionAt = 8;
constexpr size_t kLengthAt = 16;
constexpr size_t kIdentityAt = 24;
constexpr size_t kHeaderBytes = 60;  // and a checksum
constexpr size_t kOffsetAt = 8;
constexpr size_t kNewBytesAt = 16;
constexpr size_t kOldBytesAt = 24;
constexpr size_t kRecordBytes = 32;  // then checksums of the new sectors, the old bytes, a checksum
constexpr size_t kSumBytes = 4;
constexpr uint64_t kMostBytes = 4 * kMiB;  // of the device, a record
constexpr uint64_t kPieceBytes = kMiB;     // longer changes are several records

uint32_t sum_of(ConstBytes bytes) noexcept {
  // isa-l takes a pointer to bytes that are not const, and does not change them.
  auto* const data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~0U);
}

void seal(std::vector<std::byte>& bytes) {
  const uint32_t sum = sum_of(bytes);
  bytes.resize(bytes.size() + kSumBytes);
  store_be(bytes.data() + bytes.size() - kSumBytes, sum);
}

bool is_sealed(ConstBytes bytes) noexcept {
  const size_t content = bytes.size() - kSumBytes;
  return sum_of(bytes.first(content)) == load_be<uint32_t>(bytes.data() + content);
}

}  // namespace

io::task<void> UndoLog::append(std::vector<std::byte> record) {
  seal(record);
  co_await log_->write(at_, record);
  co_await log_->flush();
  at_ += record.size();
}

io::task<void> UndoLog::begin() {
  if (at_ != 0) co_return;
  std::vector<std::byte> header(kHeaderBytes - kSumBytes);
  std::memcpy(header.data(), kMagic.data(), kMagic.size());
  store_be(header.data() + kVersionAt, kVersion);
  store_be(header.data() + kLengthAt, length_);
  std::ranges::copy(identity_, header.begin() + kIdentityAt);
  co_await append(std::move(header));
}

// One record: what whole sectors [begin, end) hold, and will once the change has come.
io::task<void> UndoLog::keep_piece(uint64_t begin, uint64_t end, uint64_t offset, uint64_t length,
                                   ConstBytes fill) {
  const uint64_t old_bytes = std::min(end, std::max(inner().length_bytes(), begin)) - begin;
  const uint64_t sectors = div_ceil<uint64_t>(end - begin, kSectorBytes);
  std::vector<std::byte> record(kRecordBytes + sectors * kSumBytes + old_bytes);
  store_be(record.data(), kRecordMark);
  store_be(record.data() + kOffsetAt, begin);
  store_be(record.data() + kNewBytesAt, end - begin);
  store_be(record.data() + kOldBytesAt, old_bytes);
  const Bytes old = Bytes(record).last(old_bytes);
  co_await inner().read(begin, old);
  std::vector<std::byte> after(end - begin);
  std::ranges::copy(old, after.begin());
  const uint64_t from = std::max(begin, offset);
  const Bytes changed = Bytes(after).subspan(from - begin, std::min(end, offset + length) - from);
  if (fill.empty()) {
    std::ranges::fill(changed, std::byte{0});
  } else {
    std::ranges::copy(fill.subspan(from - offset, changed.size()), changed.begin());
  }
  for (uint64_t i = 0; i < sectors; ++i) {
    const uint64_t at = i * kSectorBytes;
    const uint64_t sector_bytes = std::min<uint64_t>(kSectorBytes, after.size() - at);
    store_be(record.data() + kRecordBytes + i * kSumBytes, sum_of(Bytes(after).subspan(at, sector_bytes)));
  }
  co_await append(std::move(record));
  bytes_kept_ += old_bytes;
}

io::task<void> UndoLog::keep(uint64_t offset, uint64_t length, ConstBytes fill) {
  co_await begin();
  const uint64_t last = std::min(align_up<uint64_t>(offset + length, kSectorBytes),
                                 std::max(inner().length_bytes(), offset + length));
  for (uint64_t at = align_down<uint64_t>(offset, kSectorBytes); at < last;) {
    const uint64_t end = std::min(at + kPieceBytes, last);
    co_await keep_piece(at, end, offset, length, fill);
    at = end;
  }
}

io::task<void> UndoLog::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  co_await keep(offset, source.size(), source);
  co_await inner().write(offset, source, flags);
}

io::task<void> UndoLog::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  co_await keep(offset, length, {});
  co_await inner().write_zeroes(offset, length, flags);
}

io::task<void> UndoLog::discard(uint64_t offset, uint64_t length) {
  co_await keep(offset, length, {});
  co_await inner().discard(offset, length);
}

io::task<void> UndoLog::close() {
  co_await begin();
  std::vector<std::byte> end(kOffsetAt + 8);
  store_be(end.data(), kEndMark);
  store_be(end.data() + kOffsetAt, inner().length_bytes());
  co_await append(std::move(end));
  co_await log_->close();
  co_await inner().close();
}

// ---- putting back ----

namespace {

class PutBack {
 public:
  PutBack(block::Device& log, UndoTarget target) : log_(log), target_(std::move(target)) {}

  io::task<uint64_t> run() {
    co_await read_header();
    while (co_await note_record()) {
    }
    co_await require_unchanged();
    uint64_t bytes = 0;
    for (auto record = records_.rbegin(); record != records_.rend(); ++record) {
      if (record->old_bytes == 0) continue;
      const std::vector<std::byte> old = co_await read(record->old_at, record->old_bytes);
      co_await target_.device.write(record->offset, old);
      bytes += record->old_bytes;
    }
    co_await target_.device.flush();
    co_await target_.cut(length_);
    co_return bytes;
  }

 private:
  struct Record {
    uint64_t offset;
    uint64_t old_at;  // in the log
    uint64_t old_bytes;
  };
  // What a sector may hold.
  struct Allowed {
    uint64_t sector;
    uint32_t sum;
    auto operator<=>(const Allowed&) const = default;
  };

  io::task<std::vector<std::byte>> read(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    co_await log_.read(offset, bytes);
    co_return bytes;
  }

  bool has(uint64_t length) const { return range_within(at_, length, log_.length_bytes()); }

  io::task<void> read_header() {
    std::vector<std::byte> header;
    if (has(kHeaderBytes)) header = co_await read(0, kHeaderBytes);
    if (header.empty() || std::memcmp(header.data(), kMagic.data(), kMagic.size()) != 0 || !is_sealed(header))
      fail(ErrorKind::kCorrupt, "'{}' is no backup that check --backup made, or is damaged", log_.name());
    if (load_be<uint32_t>(header.data() + kVersionAt) != kVersion)
      fail(ErrorKind::kUnsupported, "'{}': version {} of backups is not known here", log_.name(),
           load_be<uint32_t>(header.data() + kVersionAt));
    if (!std::equal(target_.identity.begin(), target_.identity.end(), header.begin() + kIdentityAt))
      fail(ErrorKind::kInvalidArgument, "'{}' is the backup of another image than '{}'", log_.name(),
           target_.device.name());
    length_ = load_be<uint64_t>(header.data() + kLengthAt);
    at_ = kHeaderBytes;
  }

  // A record that is not whole was not durable, so the change that it belongs to never happened.
  io::task<bool> note_record() {
    if (!has(kOffsetAt + 8 + kSumBytes)) co_return false;
    const std::vector<std::byte> start = co_await read(at_, kOffsetAt + 8);
    if (load_be<uint32_t>(start.data()) == kEndMark) {
      end_length_ = load_be<uint64_t>(start.data() + kOffsetAt);
      co_return false;
    }
    if (load_be<uint32_t>(start.data()) != kRecordMark || !has(kRecordBytes)) co_return false;
    const std::vector<std::byte> head = co_await read(at_, kRecordBytes);
    const uint64_t new_bytes = load_be<uint64_t>(head.data() + kNewBytesAt);
    const uint64_t old_bytes = load_be<uint64_t>(head.data() + kOldBytesAt);
    if (new_bytes > kMostBytes || old_bytes > new_bytes) co_return false;
    const uint64_t sums = div_ceil<uint64_t>(new_bytes, kSectorBytes) * kSumBytes;
    const uint64_t length = kRecordBytes + sums + old_bytes + kSumBytes;
    if (!has(length)) co_return false;
    const std::vector<std::byte> record = co_await read(at_, length);
    if (!is_sealed(record)) co_return false;
    const uint64_t offset = load_be<uint64_t>(head.data() + kOffsetAt);
    records_.push_back({offset, at_ + kRecordBytes + sums, old_bytes});
    allow(offset, ConstBytes(record).subspan(kRecordBytes), sums, old_bytes);
    at_ += length;
    co_return true;
  }

  void allow(uint64_t offset, ConstBytes sums_and_old, uint64_t sums, uint64_t old_bytes) {
    for (uint64_t i = 0; i < sums; i += kSumBytes)
      allowed_.push_back({offset / kSectorBytes + i / kSumBytes, load_be<uint32_t>(sums_and_old.data() + i)});
    const ConstBytes old = sums_and_old.subspan(sums, old_bytes);
    for (uint64_t i = 0; i < old_bytes; i += kSectorBytes)
      allowed_.push_back({(offset + i) / kSectorBytes,
                          sum_of(old.subspan(i, std::min<uint64_t>(kSectorBytes, old_bytes - i)))});
  }

  io::task<void> require_unchanged() {
    const uint64_t length = target_.device.length_bytes();
    const uint64_t old_length = align_up<uint64_t>(length_, kSectorBytes);
    if (end_length_ != 0 && length != end_length_ && align_up<uint64_t>(length, kSectorBytes) != old_length)
      changed_since();
    std::ranges::sort(allowed_);
    AlignedBuffer buffer(kSectorBytes);
    for (size_t i = 0; i < allowed_.size();) {
      const uint64_t sector = allowed_[i].sector;
      const uint64_t offset = sector * kSectorBytes;
      const Bytes bytes =
          buffer.bytes().first(std::min<uint64_t>(kSectorBytes, std::max(length, offset) - offset));
      if (!bytes.empty()) co_await target_.device.read(offset, bytes);
      const uint32_t sum = sum_of(bytes);
      bool found = bytes.empty();
      for (; i < allowed_.size() && allowed_[i].sector == sector; ++i)
        found = found || allowed_[i].sum == sum;
      if (!found) changed_since();
    }
  }

  [[noreturn]] void changed_since() const {
    fail(ErrorKind::kInvalidArgument,
         "'{}' was changed since the repair that '{}' belongs to: to put back what was there would damage it",
         target_.device.name(), log_.name());
  }

  block::Device& log_;
  UndoTarget target_;
  uint64_t at_ = 0;
  uint64_t length_ = 0;
  uint64_t end_length_ = 0;
  std::vector<Record> records_;
  std::vector<Allowed> allowed_;
};

}  // namespace

io::task<uint64_t> put_back(block::Device& log, UndoTarget target) {
  PutBack work(log, std::move(target));
  co_return co_await work.run();
}

}  // namespace cofre::layer
