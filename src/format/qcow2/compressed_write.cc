#include "format/qcow2/compressed_write.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/compress.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kLongestBytes = kMiB;

}  // namespace

uint64_t CompressedWrite::longest(const State& state) noexcept {
  return std::max(kLongestBytes, state.cluster_bytes());
}

// The disk's last cluster may pass its end: zeros stand there.
ConstBytes CompressedWrite::cluster_at(uint64_t guest, AlignedBuffer& padded) const {
  const uint64_t bytes = state_.cluster_bytes();
  const ConstBytes there = source_.subspan(guest - guest_);
  if (there.size() >= bytes) return there.first(bytes);
  padded = AlignedBuffer(bytes);
  std::memcpy(padded.data(), there.data(), there.size());
  std::memset(padded.data() + there.size(), 0, bytes - there.size());
  return padded.bytes();
}

void CompressedWrite::compress() {
  const uint64_t bytes = state_.cluster_bytes();
  packed_ = AlignedBuffer(align_up(source_.size(), bytes));
  AlignedBuffer padded;
  uint64_t at = 0;
  for (uint64_t guest = guest_; guest < guest_ + source_.size(); guest += bytes) {
    const size_t length = qcow2::compress(state_.header.compression_type, cluster_at(guest, padded),
                                          packed_.bytes().subspan(at, bytes - 1));
    if (length == 0) continue;
    pieces_.push_back({.guest = guest, .packed_at = at, .length_bytes = length});
    at += length;
  }
}

io::task<void> CompressedWrite::store() {
  if (!pieces_.empty()) co_await store_pieces();
  co_await store_others();
}

io::task<void> CompressedWrite::store_pieces() {
  block::RangeLock::Guard exclusive;
  co_await state_.guest_ranges.acquire(exclusive, guest_, state_.cluster_end(guest_ + source_.size() - 1),
                                       true);
  std::exception_ptr failure;
  try {
    co_await allocate();
    co_await move();
  } catch (...) {
    failure = std::current_exception();
  }
  co_await io::enter(state_.home);
  const io::Mutex::Guard guard = co_await state_.metadata.lock();
  if (!failure) {
    try {
      co_await commit();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  if (failure) {
    give_back();
    std::rethrow_exception(failure);
  }
  co_await state_.relieve();
}

io::task<void> CompressedWrite::allocate() {
  const io::Mutex::Guard guard = co_await state_.metadata.lock();
  state_.require_usable();
  // No two of these writes share a sector: they may move at the same time, and be torn by a crash.
  state_.refcounts.start_sector();
  for (Piece& piece : pieces_) {
    const SlicePtr slice = co_await state_.writable_slice(piece.guest);  // its table comes before the data
    if (no_overwrite_) require_no_place(state_.entry_in(*slice, piece.guest), piece.guest);
    piece.host = co_await state_.refcounts.allocate_bytes(piece.length_bytes);
  }
}

void CompressedWrite::require_no_place(L2Entry entry, uint64_t guest) const {
  if (!entry.compressed() && entry.host_offset() == 0) return;
  fail_errno(EIO, "'{}': the cluster at offset {} has its place already, and is not to be compressed",
             state_.name, guest);
}

std::vector<CompressedWrite::Segment> CompressedWrite::segments() const {
  std::vector<Segment> segments;
  for (const Piece& piece : pieces_) {
    const bool follows =
        !segments.empty() && piece.host == segments.back().host + segments.back().length_bytes;
    if (!follows) segments.push_back({piece.host, piece.packed_at, 0});
    segments.back().length_bytes += piece.length_bytes;
  }
  return segments;
}

// Whole sectors: readers count in those, and the file must hold the last one to its end.
io::task<void> CompressedWrite::move() {
  co_await io::enter(lane_);
  for (const Segment& segment : segments()) {
    AlignedBuffer sectors(align_up<uint64_t>(segment.length_bytes, kSectorBytes));
    std::memcpy(sectors.data(), packed_.data() + segment.packed_at, segment.length_bytes);
    std::memset(sectors.data() + segment.length_bytes, 0, sectors.size() - segment.length_bytes);
    state_.file->raise(block::Event::kWriteCompressed);
    co_await state_.file->write(segment.host, sectors.bytes());
  }
}

io::task<void> CompressedWrite::commit() {
  for (Piece& piece : pieces_) {
    const SlicePtr slice = co_await state_.writable_slice(piece.guest);
    const L2Entry old = state_.entry_in(*slice, piece.guest);
    state_.set_entry(*slice, piece.guest,
                     compressed_entry(piece.host, piece.length_bytes, state_.header.cluster_bits));
    piece.host = 0;
    state_.retire_entry(old, /*discard=*/true);
  }
}

void CompressedWrite::give_back() {
  for (const Piece& piece : pieces_) {
    if (piece.host == 0) continue;
    state_.retire_entry(compressed_entry(piece.host, piece.length_bytes, state_.header.cluster_bits),
                        /*discard=*/false);
  }
}

// The clusters between the pieces.
io::task<void> CompressedWrite::store_others() {
  const uint64_t end = guest_ + source_.size();
  uint64_t at = guest_;
  for (size_t i = 0; at < end; ++i) {
    const uint64_t next = i < pieces_.size() ? pieces_[i].guest : end;
    if (at < next) co_await state_.write_range(lane_, at, source_.subspan(at - guest_, next - at));
    at = next + state_.cluster_bytes();
  }
}

}  // namespace cofre::qcow2
