#include "tool/io_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "image/describe.h"
#include "image/size.h"
#include "io/reactor.h"
#include "storage/file.h"
#include "tool/io_words.h"

namespace cofre::tool {
namespace {

using Clock = std::chrono::steady_clock;

// Requests are cut into pieces of this size, so that memory stays small.
constexpr uint64_t kPieceBytes = 16 * kMiB;
// The longest request of qemu-io.
constexpr uint64_t kMaxRequestBytes = 2147483136;
constexpr std::byte kUsualPattern{0xcd};

struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
};

// "off len [len...]": the lengths are added up.
Range range_of(const CommandWords& words, bool several) {
  words.expect_arguments(2, several ? SIZE_MAX : 2);
  Range range{.offset = words.size(0)};
  for (size_t i = 1; i < words.arguments().size(); ++i) {
    const uint64_t length = words.size(i);
    if (length > kMaxRequestBytes - range.length)
      throw BadCommand(
          fmt::format("length cannot exceed {}, given {}", kMaxRequestBytes, words.arguments()[i]));
    range.length += length;
  }
  return range;
}

// A read is of what is there; a write may not grow the disk either.
void check_bounds(const IoTarget& target, Range range) {
  const uint64_t length = target.image.device->length_bytes();
  if (range.offset > length || range.length > length - range.offset)
    fail(ErrorKind::kInvalidArgument, "bytes {} to {} are not within the disk, which has {}", range.offset,
         range.offset + range.length, length);
}

void report(const CommandWords& words, std::string_view verb, Range range, Clock::time_point started) {
  if (words.has('q')) return;
  const double seconds = std::max(std::chrono::duration<double>(Clock::now() - started).count(), 1e-9);
  const double bytes_per_second = static_cast<double>(range.length) / seconds;
  const auto whole = static_cast<uint64_t>(seconds);
  if (words.has('C')) {
    fmt::print("{},1,{}:{:02}:{:05.2f},{:.3f},{:.3f}\n", range.length, whole / 3600, whole / 60 % 60,
               seconds - static_cast<double>(whole / 60 * 60), bytes_per_second, 1 / seconds);
    return;
  }
  fmt::print("{} {}/{} bytes at offset {}\n", verb, range.length, range.length, range.offset);
  fmt::print("{}, 1 ops; {:05.2f} sec ({}/sec and {:.4f} ops/sec)\n", image::format_size_exact(range.length),
             seconds, image::format_size_exact(static_cast<uint64_t>(bytes_per_second)), 1 / seconds);
}

void dump(ConstBytes bytes, uint64_t offset) {
  constexpr size_t kLineBytes = 16;
  for (size_t at = 0; at < bytes.size(); at += kLineBytes) {
    const ConstBytes line = bytes.subspan(at, std::min(kLineBytes, bytes.size() - at));
    std::string hex;
    std::string text;
    for (const std::byte byte : line) {
      const auto c = static_cast<unsigned char>(byte);
      hex += fmt::format("{:02x} ", c);
      const bool shown = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
      text += shown ? static_cast<char>(c) : '.';  // as qemu-io has it
    }
    fmt::print("{:08x}:  {} {}\n", offset + at, hex, text);
  }
}

// Which part of what is read must hold which byte.
struct Verification {
  std::optional<std::byte> pattern;
  uint64_t begin = 0;  // in the read
  uint64_t end = 0;
  bool passed = true;

  void look(ConstBytes piece, uint64_t at) {
    if (!pattern || at >= end || at + piece.size() <= begin) return;
    const uint64_t first = std::max(at, begin) - at;
    const uint64_t last = std::min(at + piece.size(), end) - at;
    const ConstBytes part = piece.subspan(first, last - first);
    passed =
        passed && std::all_of(part.begin(), part.end(), [this](std::byte byte) { return byte == *pattern; });
  }
};

Verification verification_of(const CommandWords& words, uint64_t length) {
  Verification verification{.pattern = words.pattern()};
  if (!verification.pattern && (words.has('s') || words.has('l'))) throw BadCommand("-s and -l need -P");
  verification.begin = words.size_value('s').value_or(0);
  if (verification.begin > length) throw BadCommand("pattern verification range exceeds end of read data");
  const uint64_t count = words.size_value('l').value_or(length - verification.begin);
  if (count > length - verification.begin)
    throw BadCommand("pattern verification range exceeds end of read data");
  verification.end = verification.begin + count;
  return verification;
}

// -b: the VM state of a qcow2 image, which lies in an area of its own, instead of the disk.
qcow2::Image& vm_state_of(const IoTarget& target, Range range) {
  if (!is_aligned<uint64_t>(range.offset, kSectorBytes))
    throw BadCommand(fmt::format("{} is not a sector-aligned value for 'offset'", range.offset));
  if (!is_aligned<uint64_t>(range.length, kSectorBytes))
    throw BadCommand(fmt::format("{} is not a sector-aligned value for 'count'", range.length));
  if (target.image.top().qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "Operation not supported: only qcow2 images have VM state");
  return *target.image.top().qcow2;
}

io::task<bool> read_range(IoTarget& target, const CommandWords& words, bool several) {
  const Range range = range_of(words, several);
  Verification verification = verification_of(words, range.length);
  qcow2::Image* const vm_state = words.has('b') ? &vm_state_of(target, range) : nullptr;
  if (vm_state == nullptr) check_bounds(target, range);
  AlignedBuffer buffer(std::clamp<uint64_t>(range.length, 1, kPieceBytes));
  Clock::duration spent{};
  for (uint64_t at = 0; at < range.length; at += kPieceBytes) {
    const Bytes piece = buffer.bytes().first(std::min(kPieceBytes, range.length - at));
    const Clock::time_point started = Clock::now();
    if (vm_state != nullptr) {
      co_await vm_state->load_vmstate(range.offset + at, piece);
    } else {
      co_await target.image.device->read(range.offset + at, piece);
    }
    spent += Clock::now() - started;
    verification.look(piece, at);
    if (words.has('v') && !words.has('q')) dump(piece, range.offset + at);
  }
  if (!verification.passed)
    fmt::print("Pattern verification failed at offset {}, {} bytes\n", range.offset + verification.begin,
               verification.end - verification.begin);
  report(words, "read", range, Clock::now() - spent);
  co_return verification.passed;
}

io::task<bool> run_read(IoTarget& target, const std::vector<std::string>& words) {
  co_return co_await read_range(target, CommandWords(words, find_io_command(words[0])->options), false);
}

io::task<bool> run_readv(IoTarget& target, const std::vector<std::string>& words) {
  co_return co_await read_range(target, CommandWords(words, find_io_command(words[0])->options), true);
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
  void read_file(const std::string& path) {
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) throw BadCommand(fmt::format("{}: {}", path, std::strerror(errno)));
    AlignedBuffer whole(kPieceBytes);
    const size_t length = std::fread(whole.data(), 1, whole.size(), file);
    std::fclose(file);
    if (length == 0) throw BadCommand(fmt::format("{}: file is empty", path));
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
  if (words.has('z') + words.has('P') + words.has('s') > 1)
    throw BadCommand("Only one of -z, -P, and -s can be specified at the same time");
  for (const char option : {'u', 'n'}) {
    if (words.has(option) && !words.has('z'))
      throw BadCommand(fmt::format("-{} requires -z to be specified", option));
  }
}

void check_compressed(const IoTarget& target, Range range) {
  const block::Device& device = *target.image.device;
  const uint64_t unit = device.limits().compressed_unit_bytes;
  if (unit == 0)
    fail(ErrorKind::kUnsupported,
         "'{}' cannot hold compressed clusters: that takes a qcow2 image without encryption and data file",
         device.name());
  const uint64_t end = range.offset + range.length;
  if (!is_aligned(range.offset, unit) || (!is_aligned(end, unit) && end != device.length_bytes()))
    fail(ErrorKind::kInvalidArgument, "compressed writes consist of whole clusters of {} bytes", unit);
}

io::task<void> write_bytes(IoTarget& target, const CommandWords& words, Range range, const Filling& filling) {
  const block::WriteFlags flags = {.fua = words.has('f'), .compressed = words.has('c')};
  qcow2::Image* const vm_state = words.has('b') ? &vm_state_of(target, range) : nullptr;
  if (flags.compressed && vm_state == nullptr) check_compressed(target, range);
  AlignedBuffer buffer(std::clamp<uint64_t>(range.length, 1, kPieceBytes));
  for (uint64_t at = 0; at < range.length; at += kPieceBytes) {
    const Bytes piece = buffer.bytes().first(std::min(kPieceBytes, range.length - at));
    filling.fill(piece, at);
    if (vm_state != nullptr) {
      co_await vm_state->save_vmstate(range.offset + at, piece);
    } else {
      co_await target.image.device->write(range.offset + at, piece, flags);
    }
  }
}

io::task<bool> write_range(IoTarget& target, const CommandWords& words, bool several) {
  const Range range = range_of(words, several);
  check_write_options(words);
  const Filling filling(words);
  if (!words.has('b')) check_bounds(target, range);
  const Clock::time_point started = Clock::now();
  if (words.has('z')) {
    const block::WriteFlags flags = {
        .fua = words.has('f'), .may_unmap = words.has('u'), .no_fallback = words.has('n')};
    co_await target.image.device->write_zeroes(range.offset, range.length, flags);
  } else {
    co_await write_bytes(target, words, range, filling);
  }
  report(words, "wrote", range, started);
  co_return true;
}

io::task<bool> run_write(IoTarget& target, const std::vector<std::string>& words) {
  co_return co_await write_range(target, CommandWords(words, find_io_command(words[0])->options), false);
}

io::task<bool> run_writev(IoTarget& target, const std::vector<std::string>& words) {
  co_return co_await write_range(target, CommandWords(words, find_io_command(words[0])->options), true);
}

io::task<bool> run_discard(IoTarget& target, const std::vector<std::string>& text) {
  const CommandWords words(text, "Cq");
  const Range range = range_of(words, false);
  check_bounds(target, range);
  const Clock::time_point started = Clock::now();
  co_await target.image.device->discard(range.offset, range.length);
  report(words, "discard", range, started);
  co_return true;
}

io::task<bool> run_flush(IoTarget& target, const std::vector<std::string>& words) {
  CommandWords(words, "").expect_arguments(0, 0);
  co_await target.image.device->flush();
  co_return true;
}

// Requests are done when their command ends, so none is outstanding.
io::task<bool> run_aio_flush(IoTarget&, const std::vector<std::string>& words) {
  CommandWords(words, "").expect_arguments(0, 0);
  co_return true;
}

io::task<bool> run_length(IoTarget& target, const std::vector<std::string>& words) {
  CommandWords(words, "").expect_arguments(0, 0);
  fmt::print("{}\n", image::format_size_exact(target.image.device->length_bytes()));
  co_return true;
}

io::task<bool> run_truncate(IoTarget& target, const std::vector<std::string>& text) {
  const CommandWords words(text, "");
  words.expect_arguments(1, 1);
  co_await target.image.device->resize(words.size(0));
  co_return true;
}

// The length of the run at `at` of which this layer decides all or nothing.
io::task<uint64_t> same_allocation(block::Device& device, uint64_t at, uint64_t length, bool& allocated) {
  block::Extent extent = co_await device.map(at, length);
  allocated = extent.allocated;
  uint64_t run = 0;
  while (true) {
    run += extent.length_bytes;
    if (run >= length) co_return length;
    extent = co_await device.map(at + run, length - run);
    if (extent.allocated != allocated) co_return run;
  }
}

io::task<bool> run_alloc(IoTarget& target, const std::vector<std::string>& text) {
  const CommandWords words(text, "");
  words.expect_arguments(1, 2);
  block::Device& device = *target.image.device;
  const uint64_t offset = words.size(0);
  const uint64_t asked = words.arguments().size() == 2 ? words.size(1) : kSectorBytes;
  const uint64_t count = offset < device.length_bytes() ? std::min(asked, device.length_bytes() - offset) : 0;
  uint64_t sum = 0;
  for (uint64_t at = 0; at < count;) {
    bool allocated = false;
    const uint64_t run = co_await same_allocation(device, offset + at, count - at, allocated);
    sum += allocated ? run : 0;
    at += run;
  }
  fmt::print("{}/{} bytes allocated at offset {}\n", sum, count, image::format_size_exact(offset));
  co_return true;
}

io::task<bool> run_map(IoTarget& target, const std::vector<std::string>& words) {
  CommandWords(words, "").expect_arguments(0, 0);
  block::Device& device = *target.image.device;
  const uint64_t length = device.length_bytes();
  for (uint64_t at = 0; at < length;) {
    bool allocated = false;
    const uint64_t run = co_await same_allocation(device, at, length - at, allocated);
    fmt::print("{} (0x{:x}) bytes {} allocated at offset {} (0x{:x})\n", image::format_size_exact(run), run,
               allocated ? "   " : "not", image::format_size_exact(at), at);
    at += run;
  }
  co_return true;
}

io::task<bool> run_info(IoTarget& target, const std::vector<std::string>& words) {
  CommandWords(words, "").expect_arguments(0, 0);
  fmt::print("{}", image::info_text(co_await image::describe(target.image)));
  co_return true;
}

io::task<bool> run_sleep(IoTarget&, const std::vector<std::string>& text) {
  const CommandWords words(text, "");
  words.expect_arguments(1, 1);
  co_await io::sleep_ns(words.size(0) * 1'000'000);
  co_return true;
}

io::task<bool> run_quit(IoTarget& target, const std::vector<std::string>&) {
  target.quit = true;
  co_return true;
}

io::task<bool> run_abort(IoTarget&, const std::vector<std::string>&) {
  std::abort();
}

void print_help_line(const IoCommand& command) {
  fmt::print("{}{}{} -- {}\n", command.name, command.usage.empty() ? "" : " ", command.usage, command.text);
}

io::task<bool> run_help(IoTarget&, const std::vector<std::string>& words) {
  if (words.size() < 2) {
    for (const IoCommand& command : io_commands()) print_help_line(command);
    co_return true;
  }
  const IoCommand* const command = find_io_command(words[1]);
  if (command == nullptr) throw BadCommand(fmt::format("command \"{}\" not found", words[1]));
  print_help_line(*command);
  co_return true;
}

constexpr std::string_view kReadOptions = "CpqvP:s:l:";
constexpr std::string_view kWriteOptions = "CfnpquzP:s:";
constexpr std::string_view kOneReadOptions = "bCpqvP:s:l:";
constexpr std::string_view kOneWriteOptions = "bcCfnpquzP:s:";

constexpr IoCommand kCommands[] = {
    {"abort", "", "", "end the program at once, as a crash would", "", run_abort},
    {"aio_flush", "", "", "wait for all aio requests", "", run_aio_flush},
    {"aio_read", "", "[-Cqv] [-P pattern] off len [len..]", "read bytes", kReadOptions, run_readv},
    {"aio_write", "", "[-Cfnquz] [-P pattern] off len [len..]", "write bytes", kWriteOptions, run_writev},
    {"alloc", "", "off [len]", "how many bytes of a range this image itself holds", "", run_alloc},
    {"discard", "d", "[-Cq] off len", "give the space of a range back", "Cq", run_discard},
    {"flush", "f", "", "make everything written durable", "", run_flush},
    {"help", "?", "[command]", "help for one or all commands", "", run_help},
    {"info", "i", "", "what the image is", "", run_info},
    {"length", "l", "", "the size of the disk", "", run_length},
    {"map", "", "", "which ranges this image itself holds", "", run_map},
    {"quit", "q", "", "end the program", "", run_quit},
    {"read", "r", "[-bCqv] [-P pattern [-s off] [-l len]] off len",
     "read bytes; -v shows them, -P compares them with a pattern; -b of the VM state", kOneReadOptions,
     run_read},
    {"readv", "", "[-Cqv] [-P pattern] off len [len..]", "read bytes", kReadOptions, run_readv},
    {"sleep", "", "milliseconds", "wait", "", run_sleep},
    {"truncate", "t", "off", "change the size of the disk", "", run_truncate},
    {"write", "w", "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "write bytes of a pattern (0xcd); -z zeros, -u and may release the space, -n and only if that is fast; "
     "-f durable; -c compressed; -b to the VM state",
     kOneWriteOptions, run_write},
    {"writev", "", "[-Cfq] [-P pattern] off len [len..]", "write bytes", kWriteOptions, run_writev},
};

}  // namespace

std::span<const IoCommand> io_commands() noexcept {
  return kCommands;
}

const IoCommand* find_io_command(std::string_view name) noexcept {
  for (const IoCommand& command : kCommands) {
    if (command.name == name || (!command.alias.empty() && command.alias == name)) return &command;
  }
  return nullptr;
}

}  // namespace cofre::tool
