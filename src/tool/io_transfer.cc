// The commands of `cofre io` that move bytes: read, write, their vectored and asynchronous forms, discard.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "tool/io_commands.h"
#include "tool/io_report.h"

namespace cofre::tool {
namespace {

// Requests are cut into pieces of this size, so that memory stays small.
constexpr uint64_t kPieceBytes = 16 * kMiB;
constexpr std::byte kUsualPattern{0xcd};

// A read is of what is there; a write may not grow the disk either.
void check_bounds(const block::Device& device, ByteRange range) {
  const uint64_t length = device.length_bytes();
  if (range.offset > length || range.length > length - range.offset)
    fail_errno(EIO, "bytes {} to {} are not within the disk, which has {}", range.offset,
               range.offset + range.length, length);
}

void require_sectors(ByteRange range) {
  if (!is_aligned<uint64_t>(range.offset, kSectorBytes))
    throw BadCommand(fmt::format("{} is not a sector-aligned value for 'offset'", range.offset));
  if (!is_aligned<uint64_t>(range.length, kSectorBytes))
    throw BadCommand(fmt::format("{} is not a sector-aligned value for 'count'", range.length));
}

// -b: the VM state of a qcow2 image, which lies in an area of its own, instead of the disk.
qcow2::Image& vm_state_of(IoImage& image) {
  if (image.opened().top().qcow2 == nullptr) fail_errno(ENOTSUP, "only qcow2 images have VM state");
  return *image.opened().top().qcow2;
}

io::task<void> read_piece(IoImage& image, qcow2::Image* vm_state, uint64_t offset, Bytes piece) {
  if (vm_state != nullptr) return vm_state->load_vmstate(offset, piece);
  return image.device().read(offset, piece);
}

// False: the bytes were others than -P says.
io::task<bool> read_range(IoContext& context, const CommandWords& words, ByteRange range,
                          Verification verification) {
  IoImage& image = *context.image;
  qcow2::Image* const vm_state = words.has('b') ? &vm_state_of(image) : nullptr;
  if (vm_state == nullptr) check_bounds(image.device(), range);
  AlignedBuffer buffer(std::clamp<uint64_t>(range.length, 1, kPieceBytes));
  IoClock::duration spent{};
  for (uint64_t at = 0; at < range.length; at += kPieceBytes) {
    const Bytes piece = buffer.bytes().first(std::min(kPieceBytes, range.length - at));
    const IoClock::time_point started = IoClock::now();
    co_await read_piece(image, vm_state, range.offset + at, piece);
    spent += IoClock::now() - started;
    verification.look(piece, at);
    if (at + piece.size() == range.length) verification.complain(range.offset);
    if (words.has('v') && !words.has('q')) dump_bytes(piece, range.offset + at);
  }
  report_transfer(words, "read", range, spent);
  co_return verification.passed();
}

// Fills buffers with what is to be written: a byte, or the content of a file again and again.
class Filling {
 public:
  explicit Filling(const CommandWords& words) : pattern_(words.pattern().value_or(kUsualPattern)) {
    if (const auto path = words.value('s')) read_file(*path);
  }
  void fill(Bytes piece, uint64_t at) const {
    if (file_.size() == 0) {
      std::memset(piece.data(), static_cast<int>(pattern_), piece.size());
      return;
    }
    for (size_t i = 0; i < piece.size(); ++i) piece[i] = file_.data()[(at + i) % file_.size()];
  }

 private:
  // Of a longer file, what fits a piece.
  void read_file(const std::string& path) {
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) throw Refused(fmt::format("{}: {}", path, std::strerror(errno)));
    AlignedBuffer whole(kPieceBytes);
    const size_t length = std::fread(whole.data(), 1, whole.size(), file);
    const int fault = std::ferror(file) != 0 ? errno : 0;
    std::fclose(file);
    if (fault != 0) throw Refused(fmt::format("{}: {}", path, std::strerror(fault)));
    if (length == 0) throw Refused(fmt::format("{}: file is empty", path));
    file_ = AlignedBuffer(length);
    std::memcpy(file_.data(), whole.data(), length);
  }

  std::byte pattern_;
  AlignedBuffer file_;
};

void check_write_options(const CommandWords& words) {
  if (words.has('b') && words.has('z')) throw BadCommand("-b and -z cannot be specified at the same time");
  if (words.has('f') && (words.has('b') || words.has('c')))
    throw BadCommand("-f and -b or -c cannot be specified at the same time");
  if (words.has('n') && !words.has('z')) throw BadCommand("-n requires -z to be specified");
  if (words.has('u') && !words.has('z')) throw BadCommand("-u requires -z to be specified");
  if (words.has('z') + words.has('P') + words.has('s') > 1)
    throw BadCommand("Only one of -z, -P, and -s can be specified at the same time");
}

void check_compressed(const block::Device& device, ByteRange range) {
  const uint64_t unit = device.limits().compressed_unit_bytes;
  if (unit == 0)
    fail_errno(
        ENOTSUP,
        "'{}' cannot hold compressed clusters: that takes a qcow2 image without encryption and data file",
        device.name());
  const uint64_t end = range.offset + range.length;
  if (!is_aligned(range.offset, unit) || (!is_aligned(end, unit) && end != device.length_bytes()))
    fail(ErrorKind::kInvalidArgument, "compressed writes consist of whole clusters of {} bytes", unit);
}

// `no_overwrite`: compressed, as qemu-io, which cannot replace a cluster so.
io::task<void> write_bytes(IoImage& image, const CommandWords& words, ByteRange range, const Filling& filling,
                           bool no_overwrite) {
  const block::WriteFlags flags = {
      .fua = words.has('f'), .compressed = words.has('c'), .no_overwrite = no_overwrite};
  qcow2::Image* const vm_state = words.has('b') ? &vm_state_of(image) : nullptr;
  if (flags.compressed && vm_state == nullptr) check_compressed(image.device(), range);
  AlignedBuffer buffer(std::clamp<uint64_t>(range.length, 1, kPieceBytes));
  for (uint64_t at = 0; at < range.length; at += kPieceBytes) {
    const Bytes piece = buffer.bytes().first(std::min(kPieceBytes, range.length - at));
    filling.fill(piece, at);
    if (vm_state != nullptr) {
      co_await vm_state->save_vmstate(range.offset + at, piece);
    } else {
      co_await image.device().write(range.offset + at, piece, flags);
    }
  }
}

io::task<void> write_range(IoContext& context, const CommandWords& words, ByteRange range,
                           const Filling& filling) {
  IoImage& image = *context.image;
  if (!words.has('b')) check_bounds(image.device(), range);
  const IoClock::time_point started = IoClock::now();
  if (words.has('z')) {
    const block::WriteFlags flags = {
        .fua = words.has('f'), .may_unmap = words.has('u'), .no_fallback = words.has('n')};
    co_await image.device().write_zeroes(range.offset, range.length, flags);
  } else {
    co_await write_bytes(image, words, range, filling, !context.session.is_cofre());
  }
  report_transfer(words, "wrote", range, IoClock::now() - started);
}

// ---- requests that report when they end, to nobody else ----

io::task<void> read_in_background(IoContext& context, CommandWords words, ByteRange range,
                                  Verification verification) {
  ++context.in_flight;
  try {
    co_await read_range(context, words, range, std::move(verification));
  } catch (const Error& error) {
    print_failure(context, "readv", error);
  }
  --context.in_flight;
}

io::task<void> write_in_background(IoContext& context, CommandWords words, ByteRange range, Filling filling) {
  ++context.in_flight;
  try {
    co_await write_range(context, words, range, filling);
  } catch (const Error& error) {
    print_failure(context, "aio_write", error);
  }
  --context.in_flight;
}

}  // namespace

io::task<bool> run_read(IoContext& context, CommandWords words) {
  const ByteRange range = words.range();
  Verification verification(words, range.length);
  if (words.has('b')) require_sectors(range);
  co_return co_await read_range(context, words, range, std::move(verification));
}

io::task<bool> run_readv(IoContext& context, CommandWords words) {
  const ByteRange range = words.vector_range();
  co_return co_await read_range(context, words, range, Verification(words, range.length));
}

io::task<bool> run_write(IoContext& context, CommandWords words) {
  words.expect_arguments(2, 2);
  check_write_options(words);
  const ByteRange range = words.range(/*bounded=*/false);
  if (range.length > kMaxRequestBytes && !words.has('n'))
    throw BadCommand(
        fmt::format("length cannot exceed {} without -n, given {}", kMaxRequestBytes, words.arguments()[1]));
  if (words.has('b') || words.has('c')) require_sectors(range);
  co_await write_range(context, words, range, Filling(words));
  co_return true;
}

io::task<bool> run_writev(IoContext& context, CommandWords words) {
  const ByteRange range = words.vector_range();
  co_await write_range(context, words, range, Filling(words));
  co_return true;
}

io::task<bool> run_aio_read(IoContext& context, CommandWords words) {
  if (words.has('i')) {
    fmt::print("injecting invalid read request\n");
    co_return true;
  }
  const ByteRange range = words.vector_range();
  Verification verification(words, range.length);
  context.requests.spawn(read_in_background(context, std::move(words), range, std::move(verification)));
  co_return true;
}

io::task<bool> run_aio_write(IoContext& context, CommandWords words) {
  if (words.has('i')) {
    fmt::print("injecting invalid write request\n");
    co_return true;
  }
  words.expect_arguments(2, SIZE_MAX);
  if (words.has('u') && !words.has('z')) throw BadCommand("-u requires -z to be specified");
  if (words.has('z') && words.arguments().size() != 2)
    throw BadCommand("-z supports only a single length parameter");
  const ByteRange range = words.has('z') ? words.range(/*bounded=*/false) : words.vector_range();
  Filling filling(words);
  context.requests.spawn(write_in_background(context, std::move(words), range, std::move(filling)));
  co_return true;
}

io::task<bool> run_discard(IoContext& context, CommandWords words) {
  const ByteRange range = words.range();
  block::Device& device = context.image->device();
  check_bounds(device, range);
  const IoClock::time_point started = IoClock::now();
  co_await device.discard(range.offset, range.length);
  report_transfer(words, "discard", range, IoClock::now() - started);
  co_return true;
}

}  // namespace cofre::tool
