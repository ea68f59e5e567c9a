#include "tool/io_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "image/size.h"

namespace cofre::tool {
namespace {

std::string clock_text(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  return fmt::format("{}:{:02}:{:05.2f}", whole / 3600, whole / 60 % 60,
                     seconds - static_cast<double>(whole / 60 * 60));
}

}  // namespace

void report_transfer(const CommandWords& words, std::string_view verb, ByteRange range,
                     IoClock::duration spent) {
  if (words.has('q')) return;
  const double seconds = std::max(std::chrono::duration<double>(spent).count(), 1e-9);
  const double bytes_per_second = static_cast<double>(range.length) / seconds;
  if (words.has('C')) {
    fmt::print("{},1,{},{:.3f},{:.3f}\n", range.length, clock_text(seconds), bytes_per_second, 1 / seconds);
    return;
  }
  const std::string time = seconds < 1 ? fmt::format("{:05.2f} sec", seconds) : clock_text(seconds);
  fmt::print("{} {}/{} bytes at offset {}\n", verb, range.length, range.length, range.offset);
  fmt::print("{}, 1 ops; {} ({}/sec and {:.4f} ops/sec)\n", image::format_size_exact(range.length), time,
             image::format_size_exact(static_cast<uint64_t>(bytes_per_second)), 1 / seconds);
}

void dump_bytes(ConstBytes bytes, uint64_t offset) {
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

Verification::Verification(const CommandWords& words, uint64_t length) : pattern_(words.pattern()) {
  if (!pattern_ && (words.has('s') || words.has('l'))) throw BadUsage("");
  begin_ = words.size_value('s').value_or(0);
  const uint64_t asked = words.size_value('l').value_or(length - std::min(begin_, length));
  if (begin_ > length || asked > length - begin_)
    throw BadCommand("pattern verification range exceeds end of read data");
  end_ = begin_ + asked;
}

void Verification::look(ConstBytes piece, uint64_t at) {
  if (!pattern_ || at >= end_ || at + piece.size() <= begin_) return;
  const uint64_t first = std::max(at, begin_) - at;
  const uint64_t last = std::min(at + piece.size(), end_) - at;
  const ConstBytes part = piece.subspan(first, last - first);
  passed_ = passed_ && std::ranges::all_of(part, [this](std::byte byte) { return byte == *pattern_; });
}

void Verification::complain(uint64_t offset) const {
  if (!passed_)
    fmt::print("Pattern verification failed at offset {}, {} bytes\n", offset + begin_, end_ - begin_);
}

}  // namespace cofre::tool
