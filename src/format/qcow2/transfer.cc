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

}  // namespace

io::task<void> State::read_stored(uint64_t guest, HostOffset host, Bytes destination) {
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

// A backing file shorter than the image reads as zero past its end.
io::task<void> State::read_backing(uint64_t guest, Bytes destination) {
  const uint64_t end = backing ? backing->length_bytes() : 0;
  const uint64_t there = guest < end ? std::min<uint64_t>(destination.size(), end - guest) : 0;
  if (there > 0) co_await read_whole_backing(guest, destination.first(there));
  if (there < destination.size()) std::memset(destination.data() + there, 0, destination.size() - there);
}

// Compressed clusters are never encrypted, whatever the header says (checked: see docs/format/qcow2.md).
io::task<void> State::read_compressed(uint64_t word, uint64_t offset_in_cluster, Bytes destination) {
  const CompressedPlace place = compressed_place(word, header.cluster_bits);
  if (place.offset >= file->length_bytes())
    fail_corrupt(fmt::format(
        "a compressed cluster lies at host offset {}, past the end of the file (is it truncated?)",
        place.offset));
  // The last sector may be cut off by the end of the file; the decoder knows where its stream ends.
  const uint64_t first = align_down<uint64_t>(place.offset, kSectorBytes);
  AlignedBuffer stored(place.offset + place.length_bytes - first);
  const uint64_t there = std::min<uint64_t>(stored.size(), file->length_bytes() - first);
  co_await file->read(first, stored.bytes().first(there));
  const ConstBytes stream =
      ConstBytes(stored.bytes()).subspan(place.offset - first, there - (place.offset - first));
  const auto decode = [&](Bytes cluster) {
    if (!decompress(header.compression_type, stream, cluster))
      fail_corrupt(
          fmt::format("the compressed cluster at host offset {} cannot be decompressed", place.offset));
  };
  if (offset_in_cluster == 0 && destination.size() == cluster_bytes()) {
    decode(destination);
    co_return;
  }
  AlignedBuffer cluster(cluster_bytes());
  decode(cluster.bytes());
  std::memcpy(destination.data(), cluster.data() + offset_in_cluster, destination.size());
}

io::task<void> State::read_range(io::Reactor& lane, uint64_t guest, Bytes destination) {
  while (!destination.empty()) {
    std::optional<Run> known = try_lookup(guest, destination.size());
    const Run run = known ? *known : co_await lookup(guest, destination.size());
    const Bytes part = destination.first(run.length_bytes);
    Retired::Transfer transfer = retired.begin();
    if (reads_zero(run)) {
      std::memset(part.data(), 0, part.size());
    } else {
      co_await io::enter(lane);
      if (run.storage == Storage::kNormal) {
        co_await read_stored(guest, run.host, part);
      } else if (run.storage == Storage::kCompressed) {
        co_await read_compressed(run.compressed_word, guest % cluster_bytes(), part);
      } else {
        co_await read_backing(guest, part);
      }
      transfer.end();
      co_await io::enter(home);
    }
    guest += part.size();
    destination = destination.subspan(part.size());
  }
}

}  // namespace cofre::qcow2
