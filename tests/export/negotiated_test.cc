// Which requests are answered with which error before anything is done, and which end the connection.
#include "export/nbd/negotiated.h"

#include <gtest/gtest.h>

#include "storage/memory.h"

namespace cofre::nbd {
namespace {

constexpr uint64_t kDiskBytes = 1 * kMiB + 100;

struct Case {
  const char* name;
  uint16_t command;
  uint16_t flags;
  uint64_t offset;
  uint64_t length;
  Fault simple;  // in each mode
  Fault extended;
};

constexpr uint16_t kRead = 0, kWrite = 1, kFlush = 3, kTrim = 4, kCache = 5, kZero = 6, kStatus = 7;
constexpr Fault kGood = Fault::kNone, kBad = Fault::kInvalid, kFull = Fault::kNoSpace;

constexpr auto kCases = std::to_array<Case>({
    {"read all", kRead, 0, 0, kDiskBytes, kGood, kGood},
    {"read nothing", kRead, 0, kDiskBytes, 0, kGood, kGood},
    {"read past the end", kRead, 0, 100, kDiskBytes, kBad, kBad},
    {"offset wraps", kRead, 0, UINT64_MAX, 2, kBad, kBad},
    {"read without fragments", kRead, command_flag::kDontFragment, 0, 1, kBad, kGood},
    {"read with FUA", kRead, command_flag::kFua, 0, 1, kGood, kGood},
    {"read with a flag of zeroes", kRead, command_flag::kNoHole, 0, 1, kBad, kBad},
    {"read with payload", kRead, command_flag::kPayloadLength, 0, 1, kBad, kBad},
    {"write past the end", kWrite, 0, kDiskBytes - 1, 2, kFull, kFull},
    {"write with payload", kWrite, command_flag::kPayloadLength, 0, 1, kBad, kGood},
    {"zero past the end", kZero, 0, kDiskBytes, 1, kFull, kFull},
    {"zero with its flags", kZero, command_flag::kNoHole | command_flag::kFastZero | command_flag::kFua, 0, 9,
     kGood, kGood},
    {"trim past the end", kTrim, 0, kDiskBytes, 1, kBad, kBad},
    {"trim as zeroes", kTrim, command_flag::kNoHole, 0, 1, kBad, kBad},
    {"cache", kCache, 0, 0, kDiskBytes, kGood, kGood},
    {"flush of some place", kFlush, 0, UINT64_MAX, UINT64_MAX, kGood, kGood},
    {"flush with a flag", kFlush, command_flag::kRequestOne, 0, 0, kBad, kBad},
    {"status without a context", kStatus, 0, 0, 512, kBad, kBad},
    {"unknown flag", kRead, 1 << 9, 0, 1, kBad, kBad},
    {"unknown command", 8, 0, 0, 0, kBad, kBad},
    {"unknown command", 0xffff, 0, 0, 0, kBad, kBad},
});

TEST(Judge, KnowsEveryFault) {
  storage::MemoryDevice device(kDiskBytes);
  auto exported = std::make_shared<exporting::Export>();
  exported->device = &device;
  for (const HeaderMode mode : {HeaderMode::kSimple, HeaderMode::kExtended}) {
    const Negotiated agreed = {.exported = exported, .mode = mode};
    for (const Case& one : kCases) {
      const RequestHeader header = {.flags = one.flags,
                                    .command = one.command,
                                    .cookie = 1,
                                    .offset = one.offset,
                                    .length = one.length};
      EXPECT_EQ(judge(header, agreed).fault, mode == HeaderMode::kSimple ? one.simple : one.extended)
          << one.name << ", mode " << static_cast<int>(mode);
    }
  }
}

TEST(Judge, LetsRequestsBelowTheSmallestBlockPass) {
  storage::MemoryDevice device(kDiskBytes);
  auto exported = std::make_shared<exporting::Export>();
  exported->device = &device;
  exported->minimum_block_bytes = 512;
  const Negotiated agreed = {.exported = exported};
  EXPECT_EQ(judge({.command = kRead, .offset = 100, .length = 512}, agreed).fault, kGood);
  EXPECT_EQ(judge({.command = kTrim, .offset = 512, .length = 1}, agreed).fault, kGood);
}

TEST(Judge, ReadOnlyExportsTakeNoWrites) {
  storage::MemoryDevice device(kDiskBytes);
  auto exported = std::make_shared<exporting::Export>();
  exported->device = &device;
  exported->read_only = true;
  const Negotiated agreed = {.exported = exported};
  for (const uint16_t command : {kWrite, kTrim, kZero})
    EXPECT_EQ(judge({.command = command, .length = 1}, agreed).fault, Fault::kNotPermitted) << command;
  EXPECT_EQ(judge({.command = kFlush}, agreed).fault, kGood);
}

TEST(Judge, PayloadsThatAreTooLongAreSkippedOrEndIt) {
  storage::MemoryDevice device(kDiskBytes);
  auto exported = std::make_shared<exporting::Export>();
  exported->device = &device;
  const Negotiated agreed = {.exported = exported, .mode = HeaderMode::kExtended};
  const Verdict skipped = judge({.command = kWrite, .length = kMaxPayloadBytes + 1}, agreed);
  EXPECT_EQ(skipped.fault, kBad);
  EXPECT_EQ(skipped.payload_bytes, kMaxPayloadBytes + 1);
  EXPECT_FALSE(skipped.hang_up);
  EXPECT_TRUE(judge({.command = kWrite, .length = uint64_t{1} << 40}, agreed).hang_up);
  const Verdict unknown = judge({.flags = command_flag::kPayloadLength, .command = 99, .length = 5}, agreed);
  EXPECT_EQ(unknown.payload_bytes, 5u);
  EXPECT_EQ(unknown.fault, kBad);
}

TEST(Flags, SayWhatAnExportCan) {
  storage::MemoryDevice device(kDiskBytes);
  exporting::Export exported;
  exported.device = &device;
  EXPECT_EQ(transmission_flags(exported, HeaderMode::kStructured), 0xded);
  exported.multi_conn = false;
  EXPECT_EQ(transmission_flags(exported, HeaderMode::kSimple), 0xc6d);
  exported.read_only = true;
  EXPECT_EQ(transmission_flags(exported, HeaderMode::kExtended), 0x48f);
}

}  // namespace
}  // namespace cofre::nbd
