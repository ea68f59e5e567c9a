#include "format/foreign/image.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::foreign {
namespace {

// A run that is joined of more pieces than these is told in parts: who asks gets an answer in short time.
constexpr int kMostJoined = 4096;

bool continues(const Piece& next, const Piece& run) {
  if (next.kind != run.kind || next.kind == Piece::Kind::kCompressed) return false;
  return next.kind != Piece::Kind::kStored || (next.file == run.file && next.whole_disk == run.whole_disk &&
                                               next.file_offset == run.file_offset + run.length_bytes);
}

block::Limits limits_over(const block::Limits& below) {
  block::Limits limits = below;
  limits.request_alignment = 1;
  limits.compressed_unit_bytes = 0;
  limits.read_only = true;
  limits.growable = false;
  limits.grows_with_zeroes = false;
  return limits;
}

[[noreturn]] void refuse_change(const std::string& name) {
  fail(ErrorKind::kReadOnly, "'{}': Cofre only reads images of this format: convert it to qcow2", name);
}

}  // namespace

Image::Image(std::unique_ptr<block::Device> file)
    : file_(std::move(file)), limits_(limits_over(file_->limits())) {}

void Image::check_in_file(const Piece& piece, uint64_t offset) const {
  if (piece.kind != Piece::Kind::kStored) return;
  const uint64_t end = piece.file->length_bytes();
  if (range_within(piece.file_offset, piece.length_bytes, end)) return;
  fail(ErrorKind::kCorrupt,
       "'{}': the {} bytes at {} of the disk should lie at {} in '{}', which ends at {}: the file is "
       "truncated",
       name(), piece.length_bytes, offset, piece.file_offset, piece.file->name(), end);
}

io::task<Piece> Image::locate_run(uint64_t offset, uint64_t length) {
  Piece run = co_await locate(offset, length);
  for (int joined = 1; run.length_bytes < length && joined < kMostJoined; ++joined) {
    const Piece next = co_await locate(offset + run.length_bytes, length - run.length_bytes);
    if (!continues(next, run)) break;
    run.length_bytes += next.length_bytes;
  }
  check_in_file(run, offset);
  co_return run;
}

io::task<void> Image::read(uint64_t offset, Bytes destination) {
  if (!range_within(offset, destination.size(), length_bytes_))
    fail(ErrorKind::kInvalidArgument, "'{}': {} bytes at {} lie beyond the disk's end at {}", name(),
         destination.size(), offset, length_bytes_);
  while (!destination.empty()) {
    const Piece run = co_await locate_run(offset, destination.size());
    const Bytes part = destination.first(run.length_bytes);
    switch (run.kind) {
      case Piece::Kind::kStored:
        co_await run.file->read(run.file_offset, part);
        break;
      case Piece::Kind::kCompressed:
        co_await read_compressed(run, offset, part);
        break;
      default:
        std::ranges::fill(part, std::byte{0});
    }
    offset += part.size();
    destination = destination.subspan(part.size());
  }
}

io::task<block::Extent> Image::map(uint64_t offset, uint64_t length) {
  if (offset >= length_bytes_ || length == 0) co_return block::Extent{.allocated = true, .zero = true};
  const Piece run = co_await locate_run(offset, std::min(length, length_bytes_ - offset));
  block::Extent extent{.length_bytes = run.length_bytes};
  extent.allocated = run.kind != Piece::Kind::kAbsent;
  extent.zero = run.kind == Piece::Kind::kZero;
  extent.data = run.kind == Piece::Kind::kStored || run.kind == Piece::Kind::kCompressed;
  extent.compressed = run.kind == Piece::Kind::kCompressed;
  if (run.kind != Piece::Kind::kStored) co_return extent;
  extent.host_offset = run.file_offset;
  extent.host_name = run.file->name();
  if (run.whole_disk) {
    const block::Extent below = co_await run.file->map(run.file_offset, run.length_bytes);
    extent.length_bytes = below.length_bytes;
    extent.zero = below.zero;
  }
  co_return extent;
}

io::task<void> Image::read_compressed(Piece, uint64_t, Bytes) {
  fail(ErrorKind::kCorrupt, "'{}': there is no compression in this format", name());
}

io::task<void> Image::write(uint64_t, ConstBytes, block::WriteFlags) {
  refuse_change(name());
}
io::task<void> Image::write_zeroes(uint64_t, uint64_t, block::WriteFlags) {
  refuse_change(name());
}
io::task<void> Image::discard(uint64_t, uint64_t) {
  refuse_change(name());
}
io::task<void> Image::resize(uint64_t) {
  refuse_change(name());
}
io::task<void> Image::flush() {
  co_return;  // nothing is ever written
}

io::task<void> read_structure(block::Device& file, uint64_t offset, Bytes destination,
                              std::string_view what) {
  if (!range_within(offset, destination.size(), file.length_bytes()))
    fail(ErrorKind::kCorrupt,
         "'{}': {} should lie at {} ({} bytes), but the file ends at {}: it is truncated", file.name(), what,
         offset, destination.size(), file.length_bytes());
  co_await file.read(offset, destination);
}

}  // namespace cofre::foreign
