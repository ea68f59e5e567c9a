#include "format/luks/luks_container.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "io/sync.h"

namespace cofre::luks {
namespace {

// One chunk is read and decrypted, or encrypted and written, while it is still in the cache of its core.
constexpr uint64_t kChunkBytes = kMiB;
// Chunks of one request in flight: while one is in the cipher, others are in the storage.
constexpr uint64_t kChunksInFlight = 4;

uint64_t sector_of(uint64_t payload_offset) {
  return payload_offset / kSectorBytes;
}

// A sector that is there in part counts: see the header's top. No file is longer than INT64_MAX.
uint64_t whole_sectors(uint64_t bytes) {
  return align_up(std::min(bytes, uint64_t{INT64_MAX}), uint64_t{kSectorBytes});
}

// A header alone, opened as if it were the whole.
void require_payload(const block::Device& storage, const Luks1Header& header) {
  if (!header.detached()) return;
  fail(ErrorKind::kUnsupported,
       "{}: this is a detached LUKS header (its payload offset is zero): the encrypted bytes are in another "
       "file: --image-opts driver=luks,key-secret=ID,file.filename=PAYLOAD,header.filename=HEADER",
       storage.name());
}

void check_payload(const block::Device& storage, const Luks1Header& header) {
  const uint64_t payload = header.payload_offset_bytes();
  if (payload > storage.length_bytes()) {
    fail(ErrorKind::kCorrupt,
         "{}: the LUKS payload starts at offset {}, beyond the end at {}: the file is truncated",
         storage.name(), payload, storage.length_bytes());
  }
  if (!is_aligned(payload, uint64_t{storage.limits().request_alignment})) {
    fail(ErrorKind::kUnsupported,
         "{}: the LUKS payload starts at offset {}, which does not fit the storage's requests of {} bytes: "
         "open it "
         "with a cache mode that does not use direct I/O",
         storage.name(), payload, storage.limits().request_alignment);
  }
}

block::Limits limits_over(const block::Limits& below, bool read_only) {
  block::Limits limits = below;
  limits.request_alignment = std::max(below.request_alignment, kSectorBytes);
  limits.discard_alignment = std::max(below.discard_alignment, limits.request_alignment);
  limits.preferred_bytes = std::max(below.preferred_bytes, kChunkBytes);
  limits.compressed_unit_bytes = 0;
  limits.max_write_bytes = block::Limits{}.max_write_bytes;  // requests are cut into chunks here
  limits.read_only = below.read_only || read_only;
  limits.growable = below.growable && !limits.read_only;
  limits.grows_with_zeroes = false;
  return limits;
}

// Starts up to kChunksInFlight workers that share `chunks` chunks. Without memory for all of them, fewer do.
template <typename MakeWorker>
void spawn_workers(io::TaskGroup& group, uint64_t chunks, MakeWorker make_worker) {
  for (uint64_t i = 0; i < std::min(kChunksInFlight, chunks); ++i) {
    try {
      group.spawn(make_worker());
    } catch (const std::bad_alloc&) {
      if (i == 0) throw;
      return;
    }
  }
}

}  // namespace

// The part of a request that no worker has taken yet. Offsets count from the payload's start.
struct LuksContainer::Cursor {
  uint64_t start;
  uint64_t end;
  uint64_t chunk_bytes;
  uint64_t next = start;
  const io::TaskGroup* group = nullptr;

  struct Piece {
    uint64_t offset;
    uint64_t length;
    uint64_t from_start;
  };
  std::optional<Piece> take() {
    if (next == end || (group != nullptr && group->failed())) return std::nullopt;
    const uint64_t offset = std::exchange(next, next + std::min(chunk_bytes, end - next));
    return Piece{offset, next - offset, offset - start};
  }
};

// ---- life ----

LuksContainer::LuksContainer(std::unique_ptr<block::Device> storage, Luks1Header header, bool read_only)
    : storage_(std::move(storage)),
      header_(std::move(header)),
      payload_offset_(header_.payload_offset_bytes()),
      limits_(limits_over(storage_->limits(), read_only)) {}

void LuksContainer::unlock(const Luks1Volume& volume) {
  cipher_ = volume.make_cipher();
  keyslot_ = volume.keyslot;
}

io::task<std::unique_ptr<LuksContainer>> LuksContainer::open(std::unique_ptr<block::Device> storage,
                                                             ConstBytes passphrase, bool read_only,
                                                             std::stop_token stop) {
  Luks1Header header = co_await luks1_read_header(*storage, 0);
  require_payload(*storage, header);
  check_payload(*storage, header);
  const Luks1Volume volume =
      co_await luks1_unlock(*storage, 0, std::move(header), passphrase, std::move(stop));
  std::unique_ptr<LuksContainer> container(new LuksContainer(std::move(storage), volume.header, read_only));
  container->unlock(volume);
  co_return container;
}

io::task<std::unique_ptr<LuksContainer>> LuksContainer::open(std::unique_ptr<block::Device> storage,
                                                             const Luks1Volume& volume, bool read_only,
                                                             std::unique_ptr<block::Device> header_storage) {
  if (!header_storage) require_payload(*storage, volume.header);
  check_payload(*storage, volume.header);
  std::unique_ptr<LuksContainer> container(new LuksContainer(std::move(storage), volume.header, read_only));
  container->header_storage_ = std::move(header_storage);
  container->unlock(volume);
  co_return container;
}

io::task<std::unique_ptr<LuksContainer>> LuksContainer::open_locked(
    std::unique_ptr<block::Device> storage, std::unique_ptr<block::Device> header_storage) {
  Luks1Header header = co_await luks1_read_header(header_storage ? *header_storage : *storage, 0);
  if (!header_storage) require_payload(*storage, header);
  check_payload(*storage, header);
  std::unique_ptr<LuksContainer> container(new LuksContainer(std::move(storage), std::move(header), true));
  container->header_storage_ = std::move(header_storage);
  co_return container;
}

io::task<Luks1Volume> LuksContainer::format(block::Device& storage, Luks1CreateOptions options,
                                            ConstBytes passphrase, uint64_t size_bytes) {
  validate(options);
  const std::optional<uint64_t> total = checked_add(luks1_header_bytes(options), whole_sectors(size_bytes));
  if (!total || *total > INT64_MAX) {
    fail(ErrorKind::kLimit, "{}: {} bytes are more than a file can hold", storage.name(), size_bytes);
  }
  const uint64_t there = storage.length_bytes();
  if (there < *total || (there > *total && storage.limits().growable)) co_await storage.resize(*total);
  co_return co_await luks1_format(storage, 0, std::move(options), passphrase);
}

io::task<std::unique_ptr<LuksContainer>> LuksContainer::create(std::unique_ptr<block::Device> storage,
                                                               Luks1CreateOptions options,
                                                               ConstBytes passphrase, uint64_t size_bytes) {
  const Luks1Volume volume = co_await format(*storage, std::move(options), passphrase, size_bytes);
  co_return co_await open(std::move(storage), volume, /*read_only=*/false);
}

io::task<void> LuksContainer::close() {
  if (header_storage_) co_await header_storage_->close();
  co_await storage_->close();
}

// ---- checks ----

uint64_t LuksContainer::length_bytes() const {
  const uint64_t below = storage_->length_bytes();
  return below <= payload_offset_ ? 0 : whole_sectors(below - payload_offset_);
}

std::string_view LuksContainer::cipher_implementation() const noexcept {
  return cipher_ ? cipher_->implementation() : std::string_view();
}

void LuksContainer::require_unlocked() const {
  if (locked()) fail(ErrorKind::kMissingSecret, "{}: encrypted, and opened without a passphrase", name());
}

void LuksContainer::require_writable() const {
  require_unlocked();
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "{}: opened read-only", name());
}

// Completes a last sector that the storage has in part, before a write that reaches its end.
io::task<void> LuksContainer::end_on_sector(uint64_t end) {
  const uint64_t below = storage_->length_bytes();
  if (is_aligned(below - payload_offset_, uint64_t{kSectorBytes}) || payload_offset_ + end < below) co_return;
  co_await storage_->resize(payload_offset_ + length_bytes());
}

// ---- reads ----

io::task<void> LuksContainer::read_chunk(uint64_t offset, Bytes destination) {
  const uint64_t stored_at = payload_offset_ + offset;
  const uint64_t below = storage_->length_bytes();
  const size_t there = std::min<uint64_t>(destination.size(), below - std::min(below, stored_at));
  co_await storage_->read(stored_at, destination.first(there));
  if (there < destination.size()) std::memset(destination.data() + there, 0, destination.size() - there);
  cipher_->decrypt(sector_of(offset), destination, destination);
}

io::task<void> LuksContainer::read_chunks(Cursor& cursor, Bytes destination) {
  while (const std::optional<Cursor::Piece> piece = cursor.take()) {
    co_await read_chunk(piece->offset, destination.subspan(piece->from_start, piece->length));
  }
}

io::task<void> LuksContainer::read(uint64_t offset, Bytes destination) {
  require_unlocked();
  if (destination.empty()) co_return;
  if (destination.size() <= kChunkBytes) {
    co_await read_chunk(offset, destination);
    co_return;
  }
  Cursor cursor{.start = offset, .end = offset + destination.size(), .chunk_bytes = kChunkBytes};
  io::TaskGroup group;
  cursor.group = &group;
  spawn_workers(group, div_ceil(uint64_t{destination.size()}, kChunkBytes),
                [&] { return read_chunks(cursor, destination); });
  co_await group.join();
}

// ---- writes ----

// `source` is the request's first byte; null writes zeroes.
io::task<void> LuksContainer::write_chunks(Cursor& cursor, const std::byte* source, block::WriteFlags flags) {
  std::optional<Cursor::Piece> piece = cursor.take();
  if (!piece) co_return;
  AlignedBuffer buffer(piece->length);  // no later piece is longer
  for (; piece; piece = cursor.take()) {
    const Bytes encrypted = buffer.bytes().first(piece->length);
    if (source == nullptr) std::ranges::fill(encrypted, std::byte{0});
    const ConstBytes plain =
        source == nullptr ? ConstBytes(encrypted) : ConstBytes(source + piece->from_start, piece->length);
    cipher_->encrypt(sector_of(piece->offset), plain, encrypted);
    co_await storage_->write(payload_offset_ + piece->offset, encrypted, flags);
  }
}

io::task<void> LuksContainer::write_encrypted(uint64_t offset, uint64_t length, const std::byte* source,
                                              block::WriteFlags flags) {
  require_writable();
  const std::optional<uint64_t> end = checked_add(offset, length);
  if (!end || *end > INT64_MAX - payload_offset_) {
    fail(ErrorKind::kLimit, "{}: {} bytes at offset {} lie beyond what a file can hold", name(), length,
         offset);
  }
  if (length == 0) co_return;
  co_await end_on_sector(*end);
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t most = std::max(align_down(storage_->limits().max_write_bytes, alignment), alignment);
  Cursor cursor{.start = offset, .end = *end, .chunk_bytes = std::min(kChunkBytes, most)};
  if (length <= cursor.chunk_bytes) {
    co_await write_chunks(cursor, source, flags);
    co_return;
  }
  io::TaskGroup group;
  cursor.group = &group;
  spawn_workers(group, div_ceil(length, cursor.chunk_bytes),
                [&] { return write_chunks(cursor, source, flags); });
  co_await group.join();
}

io::task<void> LuksContainer::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  return write_encrypted(offset, source.size(), source.data(), flags);
}

io::task<void> LuksContainer::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  if (flags.no_fallback) {
    fail(ErrorKind::kUnsupported, "{}: an encrypted container writes zeroes as any other bytes", name());
  }
  // To the storage these are bytes like others.
  co_await write_encrypted(offset, length, nullptr, {.fua = flags.fua});
}

io::task<void> LuksContainer::discard(uint64_t, uint64_t) {
  co_return;
}

io::task<void> LuksContainer::flush() {
  return storage_->flush();
}

// ---- shape ----

io::task<block::Extent> LuksContainer::map(uint64_t offset, uint64_t length) {
  const uint64_t end = length_bytes();
  co_return block::Extent{
      .length_bytes = std::min(length, end - std::min(end, offset)), .allocated = true, .data = true};
}

io::task<void> LuksContainer::resize_sparse(uint64_t length) {
  require_writable();
  const uint64_t rounded = whole_sectors(length);
  if (rounded > INT64_MAX - payload_offset_) {
    fail(ErrorKind::kLimit, "{}: {} bytes are more than a file can hold", name(), length);
  }
  co_await storage_->resize(payload_offset_ + rounded);
}

// Writes zeroes over [before, length_bytes()), where `before` was the length and is aligned to sectors only.
io::task<void> LuksContainer::zero_new_bytes(uint64_t before) {
  const uint64_t end = length_bytes();
  const uint64_t alignment = limits_.request_alignment;
  uint64_t offset = align_down(before, alignment);
  if (offset < before) {
    AlignedBuffer edge(std::min(end, offset + alignment) - offset);
    co_await read(offset, edge.bytes());
    std::ranges::fill(edge.bytes().subspan(before - offset), std::byte{0});
    co_await write(offset, edge.bytes());
    offset += edge.size();
  }
  co_await write_zeroes(offset, end - offset);
}

io::task<void> LuksContainer::resize(uint64_t length) {
  const uint64_t before = length_bytes();
  co_await resize_sparse(length);
  if (length_bytes() <= before) co_return;
  std::exception_ptr failure;
  try {
    co_await zero_new_bytes(before);
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return;
  co_await resize_sparse(before);  // rather than leave noise where zeroes are promised
  std::rethrow_exception(failure);
}

}  // namespace cofre::luks
