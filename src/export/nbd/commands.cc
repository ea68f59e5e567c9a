// What each command of the transmission phase does. Source: the NBD protocol specification, "Request types".
#include <algorithm>
#include <new>

#include "export/nbd/transmission.h"

namespace cofre::nbd {
namespace {

// Requests that may be of any length go in pieces, so that others get their turn.
constexpr uint64_t kZeroPieceBytes = kGiB;
constexpr uint64_t kCachePieceBytes = 256 * kKiB;
// Of one metadata context in one reply.
constexpr size_t kMostStatusRuns = 4096;
// Extents that are looked at for them: neighbours of one status count as one run, and there may be millions.
constexpr size_t kMostExtents = 65536;
// So often another request may go first.
constexpr size_t kExtentsBetweenYields = 256;

}  // namespace

io::detail::Detached Transmission::serve(Transmission& transmission, Request& request) {
  try {
    co_await transmission.carry_out(request);
  } catch (const Error& error) {
    request.fault = fault_of_errno(error.errno_value());
    transmission.note_fault_(error);
  } catch (const std::bad_alloc&) {
    request.fault = Fault::kNoMemory;
  }
  transmission.answer(request);
}

io::task<void> Transmission::carry_out(Request& request) {
  const RequestHeader& header = request.header;
  const bool fua = (header.flags & command_flag::kFua) != 0;
  switch (static_cast<Command>(header.command)) {
    case Command::kRead:
      return device_.read(header.offset, request.buffer.bytes());
    case Command::kWrite:
      return device_.write(header.offset, std::as_const(request.buffer).bytes(), {.fua = fua});
    case Command::kTrim:
      return trim(header);
    case Command::kCache:
      return cache(header);
    case Command::kWriteZeroes:
      return write_zeroes(header);
    case Command::kBlockStatus:
      return block_status(request);
    case Command::kFlush:
    case Command::kDisconnect:  // never gets here
      break;
  }
  return device_.flush();
}

io::task<void> Transmission::trim(const RequestHeader& header) {
  if (header.length > 0) co_await device_.discard(header.offset, header.length);
  if ((header.flags & command_flag::kFua) != 0) co_await device_.flush();
}

io::task<void> Transmission::write_zeroes(const RequestHeader& header) {
  block::WriteFlags flags = {.may_unmap = (header.flags & command_flag::kNoHole) == 0,
                             .no_fallback = (header.flags & command_flag::kFastZero) != 0};
  for (uint64_t done = 0; done < header.length;) {
    const uint64_t piece = std::min(header.length - done, kZeroPieceBytes);
    const bool last = done + piece == header.length;
    flags.fua = last && (header.flags & command_flag::kFua) != 0;
    co_await device_.write_zeroes(header.offset + done, piece, flags);
    done += piece;
  }
}

// Reads and forgets, so that the bytes, and the tables that say where they are, are in memory.
io::task<void> Transmission::cache(const RequestHeader& header) {
  AlignedBuffer buffer(std::min(header.length, kCachePieceBytes));
  for (uint64_t done = 0; done < header.length && !broken_;) {
    const uint64_t piece = std::min<uint64_t>(header.length - done, buffer.size());
    co_await device_.read(header.offset + done, buffer.bytes().first(piece));
    done += piece;
  }
}

io::task<std::vector<exporting::StatusRun>> Transmission::status_runs(const MetaContext& context,
                                                                      const RequestHeader& header) {
  const size_t most = (header.flags & command_flag::kRequestOne) != 0 ? 1 : kMostStatusRuns;
  std::vector<exporting::StatusRun> runs;
  uint64_t done = 0;
  for (size_t extents = 0; done < header.length && extents < kMostExtents; ++extents) {
    if (extents % kExtentsBetweenYields == kExtentsBetweenYields - 1) co_await io::yield();
    const exporting::StatusRun run =
        co_await context.source->status(header.offset + done, header.length - done);
    if (!runs.empty() && runs.back().status == run.status) {
      runs.back().length_bytes += run.length_bytes;
    } else if (runs.size() == most) {
      break;
    } else {
      runs.push_back(run);
    }
    done += run.length_bytes;
  }
  co_return runs;
}

void Transmission::append_status_chunk(Request& request, const MetaContext& context,
                                       const std::vector<exporting::StatusRun>& runs, bool last) {
  const bool extended = agreed_.mode == HeaderMode::kExtended;
  const size_t header_bytes = chunk_header_bytes(agreed_.mode);
  const size_t payload_bytes = extended ? 8 + 16 * runs.size() : 4 + 8 * runs.size();
  const size_t start = request.status.size();
  request.status.resize(start + header_bytes + payload_bytes);
  std::byte* at = request.status.data() + start;
  encode_chunk(at, agreed_.mode, last ? kChunkDone : 0,
               extended ? Chunk::kBlockStatusExtended : Chunk::kBlockStatus, request.header, payload_bytes);
  at += header_bytes;
  store_be(at, context.id);
  at += 4;
  if (extended) {
    store_be(at, static_cast<uint32_t>(runs.size()));
    at += 4;
  }
  for (const exporting::StatusRun& run : runs) {
    if (extended) {
      store_be(at, run.length_bytes);
      store_be(at + 8, run.status);
    } else {
      store_be(at, static_cast<uint32_t>(run.length_bytes));
      store_be(at + 4, static_cast<uint32_t>(run.status));
    }
    at += extended ? 16 : 8;
  }
}

io::task<void> Transmission::block_status(Request& request) {
  for (size_t i = 0; i < agreed_.contexts.size(); ++i) {
    const MetaContext& context = agreed_.contexts[i];
    const std::vector<exporting::StatusRun> runs = co_await status_runs(context, request.header);
    append_status_chunk(request, context, runs, i + 1 == agreed_.contexts.size());
  }
}

}  // namespace cofre::nbd
