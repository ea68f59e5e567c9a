// Move: bytes between buffers and storage, through the cipher. No metadata is touched here; any lane.
#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/compress.h"
#include "format/qcow2/read_padded.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

// Transferred and ciphered at a time: short enough for a core's own caches, long enough that writers seldom
// wait for each other (file systems let one write at a time into a file).
constexpr uint64_t kPieceBytes = kMiB;
// Compressed clusters that are read together, and the bytes read at once for them.
constexpr size_t kMostParts = 64;
constexpr uint64_t kJoinedBytes = kMiB;

}  // namespace

io::task<void> State::read_stored(uint64_t guest, HostOffset host, Bytes destination) {
  file->raise(block::Event::kReadAio);
  if (!cipher) co_return co_await read_padded(data(), host.bytes, destination);
  while (!destination.empty()) {
    const Bytes piece = destination.first(std::min<uint64_t>(destination.size(), kPieceBytes));
    co_await read_padded(data(), host.bytes, piece);
    cipher.decrypt(GuestOffset{guest}, host, piece);
    guest += piece.size();
    host += piece.size();
    destination = destination.subspan(piece.size());
  }
}

io::task<void> State::write_stored(uint64_t guest, HostOffset host, ConstBytes source) {
  file->raise(block::Event::kWriteAio);
  if (!cipher) co_return co_await data().write(host.bytes, source);
  AlignedBuffer encrypted(std::min<uint64_t>(source.size(), kPieceBytes));
  while (!source.empty()) {
    const ConstBytes piece = source.first(std::min<uint64_t>(source.size(), kPieceBytes));
    const Bytes into = encrypted.bytes().first(piece.size());
    cipher.encrypt(GuestOffset{guest}, host, piece, into);
    co_await data().write(host.bytes, into);
    guest += piece.size();
    host += piece.size();
    source = source.subspan(piece.size());
  }
}

// Damage of the backing file is no damage of this image: as far as it goes, its storage has failed.
io::task<void> State::read_whole_backing(uint64_t guest, Bytes destination) {
  std::optional<Error> damage;
  try {
    co_return co_await backing->read(guest, destination);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    damage = error;
  }
  throw Error(ErrorKind::kIo, damage->what(), damage->errno_value());
}

// A backing file shorter than the image reads as zero past its end; a longer one has nothing to do with what
// lies behind the image's own (VM state).
io::task<void> State::read_backing(uint64_t guest, Bytes destination) {
  const uint64_t end = backing ? std::min(backing->length_bytes(), length_bytes) : 0;
  const uint64_t there = guest < end ? std::min<uint64_t>(destination.size(), end - guest) : 0;
  if (there > 0) file->raise(block::Event::kReadBackingAio);
  if (there > 0) co_await read_whole_backing(guest, destination.first(there));
  if (there < destination.size()) std::memset(destination.data() + there, 0, destination.size() - there);
}

// The compressed clusters from `guest` on that are read together, and how many bytes of the guest they are.
uint64_t State::collect_compressed(const Run& first, uint64_t guest, Bytes destination,
                                   std::vector<CompressedPart>& parts) {
  std::optional<Run> run = first;
  uint64_t count = 0;
  while (run && run->storage == Storage::kCompressed) {
    parts.push_back({compressed_place(run->compressed_word, header.cluster_bits),
                     (guest + count) % cluster_bytes(), destination.subspan(count, run->length_bytes)});
    count += run->length_bytes;
    if (count == destination.size() || parts.size() == kMostParts) break;
    run = try_lookup(guest + count, destination.size() - count);
  }
  return count;
}

void State::check_place(CompressedPlace place) const {
  if (place.offset >= file->length_bytes())
    fail_corrupt(fmt::format(
        "a compressed cluster lies at host offset {}, past the end of the file (is it truncated?)",
        place.offset));
}

void State::decode(const CompressedPart& part, ConstBytes stream) const {
  const bool whole = part.destination.size() == cluster_bytes();
  AlignedBuffer cluster(whole ? 0 : cluster_bytes());
  if (!decompress(header.compression_type, stream, whole ? part.destination : cluster.bytes()))
    fail_corrupt(
        fmt::format("the compressed cluster at host offset {} cannot be decompressed", part.place.offset));
  if (!whole)
    std::memcpy(part.destination.data(), cluster.data() + part.offset_in_cluster, part.destination.size());
}

// Compressed clusters are never encrypted, whatever the header says (checked: see docs/format/qcow2.md).
io::task<void> State::read_compressed(std::span<const CompressedPart> parts) {
  while (!parts.empty()) {
    const uint64_t first = align_down<uint64_t>(parts[0].place.offset, kSectorBytes);
    uint64_t end = first;
    size_t count = 0;  // of the parts that lie in one run of sectors, in rising order
    for (const CompressedPart& part : parts) {
      check_place(part.place);
      const uint64_t part_end = part.place.offset + part.place.length_bytes;
      const bool joins =
          part.place.offset >= first && part.place.offset <= end && part_end - first <= kJoinedBytes;
      if (count > 0 && !joins) break;
      end = std::max(end, part_end);
      ++count;
    }
    // The last sector may be cut off by the end of the file; the decoder knows where its stream ends.
    end = std::min(end, file->length_bytes());
    AlignedBuffer stored(end - first);
    file->raise(block::Event::kReadCompressed);
    co_await file->read(first, stored.bytes());
    for (const CompressedPart& part : parts.first(count)) {
      const uint64_t at = part.place.offset - first;
      decode(part, std::as_const(stored).bytes().subspan(
                       at, std::min(part.place.length_bytes, stored.size() - at)));
    }
    parts = parts.subspan(count);
  }
}

io::task<void> State::read_range(io::Reactor& lane, uint64_t guest, Bytes destination) {
  while (!destination.empty()) {
    std::optional<Run> known = try_lookup(guest, destination.size());
    const Run run = known ? *known : co_await lookup(guest, destination.size());
    uint64_t count = run.length_bytes;
    Retired::Transfer transfer = retired.begin();
    if (reads_zero(run)) {
      std::memset(destination.data(), 0, count);
    } else {
      std::vector<CompressedPart> parts;
      if (run.storage == Storage::kCompressed) count = collect_compressed(run, guest, destination, parts);
      co_await io::enter(lane);
      if (run.storage == Storage::kNormal) {
        co_await read_stored(guest, run.host, destination.first(count));
      } else if (run.storage == Storage::kCompressed) {
        co_await read_compressed(parts);
      } else {
        co_await read_backing(guest, destination.first(count));
      }
      transfer.end();
      co_await io::enter(home);
    }
    guest += count;
    destination = destination.subspan(count);
  }
}

}  // namespace cofre::qcow2
