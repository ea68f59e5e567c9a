// What the commands of `cofre io` print of transfers: statistics, bytes, and whether they are the right ones.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "tool/io_words.h"

namespace cofre::tool {

using IoClock = std::chrono::steady_clock;

// "read 512/512 bytes at offset 0" and the speed; with -C as comma-separated numbers; with -q nothing.
void report_transfer(const CommandWords& words, std::string_view verb, ByteRange range,
                     IoClock::duration spent);

// Lines of sixteen bytes, hexadecimal and as text.
void dump_bytes(ConstBytes bytes, uint64_t offset);

// Which part of what is read must hold which byte: -P, -s and -l.
class Verification {
 public:
  // Throws BadUsage, BadCommand.
  Verification(const CommandWords& words, uint64_t length);
  // `at`: where in the read `piece` begins.
  void look(ConstBytes piece, uint64_t at);
  bool passed() const noexcept { return passed_; }
  // Says it when the bytes were others; `offset` is that of the read.
  void complain(uint64_t offset) const;

 private:
  std::optional<std::byte> pattern_;
  uint64_t begin_ = 0;  // in the read
  uint64_t end_ = 0;
  bool passed_ = true;
};

}  // namespace cofre::tool
