// Which AES instructions of a stretch are proven, and which are left alone.
#include "witness/sweep.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace cofre::witness {
namespace {

constexpr uint64_t kStart = 0x4000;

class Code {
 public:
  Code& add(std::initializer_list<int> values) {
    for (const int value : values) bytes_.push_back(static_cast<std::byte>(value));
    return *this;
  }
  Code& aesenc() { return add({0x66, 0x0f, 0x38, 0xdc, 0xc1}); }  // 5 bytes
  Code& ret() { return add({0xc3}); }
  Code& jump(int distance) { return add({0xeb, distance}); }  // 2 bytes

  Stretch stretch(std::vector<uint64_t> entries = {kStart}) const {
    return {.range = {kStart, kStart + bytes_.size()}, .bytes = bytes_, .entries = std::move(entries)};
  }

 private:
  std::vector<std::byte> bytes_;
};

std::vector<uint64_t> places(const Swept& swept) {
  std::vector<uint64_t> found;
  for (const AesSite& site : swept.sites) found.push_back(site.address - kStart);
  return found;
}

using Places = std::vector<uint64_t>;

TEST(Sweep, StraightCodeIsProven) {
  const Code code = Code().aesenc().aesenc().ret();
  const Swept swept = sweep(code.stretch());
  EXPECT_EQ(places(swept), (Places{0, 5}));
  EXPECT_EQ(swept.unproven, 0u);
}

TEST(Sweep, DataBehindAJumpIsNot) {
  const Code code = Code().jump(5).aesenc().aesenc().ret();
  const Swept swept = sweep(code.stretch());
  EXPECT_EQ(places(swept), (Places{7}));
  EXPECT_EQ(swept.unproven, 1u);
}

TEST(Sweep, CodeBehindCallsIs) {
  const Code code = Code().add({0xe8, 0, 1, 0, 0}).aesenc().ret();
  EXPECT_EQ(places(sweep(code.stretch())), (Places{5}));
}

TEST(Sweep, WhatOnlyAnotherEntryReaches) {
  const Code code = Code().ret().aesenc().ret();
  EXPECT_EQ(places(sweep(code.stretch())), Places{});
  EXPECT_EQ(sweep(code.stretch()).unproven, 1u);
  EXPECT_EQ(places(sweep(code.stretch({kStart, kStart + 1}))), (Places{1}));
}

TEST(Sweep, ASwitchHidesFlowButAConsistentReadingStands) {
  const Code code = Code().add({0xff, 0xe0}).aesenc().ret();  // jmp *%rax
  EXPECT_EQ(places(sweep(code.stretch())), (Places{2}));
}

TEST(Sweep, ASwitchAmongDataDoesNot) {
  // Read from front to back, mov imm64 swallows the last instruction and the end.
  const Code code = Code().add({0xff, 0xe0}).aesenc().add({0x48, 0xb8}).ret();
  const Swept swept = sweep(code.stretch());
  EXPECT_EQ(places(swept), Places{});
  EXPECT_EQ(swept.unproven, 1u);
}

TEST(Sweep, ABranchIntoAnInstructionSpoilsTheSwitch) {
  const Code code = Code().add({0x74, 0x04}).add({0xff, 0xe0}).aesenc().ret();  // into the aesenc
  EXPECT_EQ(places(sweep(code.stretch())), Places{});
}

TEST(Sweep, FlowIntoTheMiddleOfAnInstructionProvesNothing) {
  // A jump over the first byte of mov $imm32, %eax, which is reached too.
  const Code code = Code().add({0x74, 0x01}).add({0xb8, 0x90, 0x90, 0x90, 0x90}).aesenc().ret();
  const Swept swept = sweep(code.stretch());
  EXPECT_EQ(places(swept), Places{});
  EXPECT_EQ(swept.unproven, 1u);
}

TEST(Sweep, FlowIntoNoInstructionProvesNothing) {
  const Code code = Code().aesenc().add({0x06});
  EXPECT_EQ(places(sweep(code.stretch())), Places{});
}

TEST(Sweep, ASiteHoldsItsBytes) {
  const Code code = Code().aesenc().ret();
  const Swept swept = sweep(code.stretch());
  ASSERT_EQ(swept.sites.size(), 1u);
  EXPECT_EQ(swept.sites[0].code().size(), 5u);
  EXPECT_EQ(swept.sites[0].code()[3], std::byte{0xdc});
}

TEST(Sweep, TargetsElsewhereAreTold) {
  const Code code = Code().add({0xe8, 0x00, 0x01, 0, 0}).jump(0x10).jump(-2);
  EXPECT_EQ(targets_outside(code.stretch()), (Places{kStart + 5 + 0x100, kStart + 7 + 0x10}));
}

}  // namespace
}  // namespace cofre::witness
