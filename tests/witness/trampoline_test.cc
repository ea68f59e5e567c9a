// The code that is planted: decoded again, and executed.
#include "witness/trampoline.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "witness/instruction.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kAddress = 0x7f0000001000;
constexpr uint64_t kSlot = kAddress - 0x100000;
constexpr uint64_t kFlag = kSlot + 0x2000;

AesSite site_of(std::initializer_list<int> values) {
  AesSite site;
  std::ranges::transform(values, site.bytes.begin(), [](int value) { return static_cast<std::byte>(value); });
  site.instruction = *decode(ConstBytes(site.bytes).first(values.size()), kAddress);
  site.form = *site.instruction.aes;
  return site;
}

int32_t displacement_at(const SlotCode& code, size_t offset) {
  return static_cast<int32_t>(load_le<uint32_t>(code.data() + offset));
}

TEST(Trampoline, ASlotMarksExecutesAndReturns) {
  const AesSite site = site_of({0x66, 0x0f, 0x38, 0xdc, 0xc1});
  const auto code = make_slot(site, kAddress, kSlot, kFlag);
  ASSERT_TRUE(code);
  EXPECT_EQ((*code)[0], std::byte{0xc6});  // movb $1, flag(%rip)
  EXPECT_EQ(kSlot + 7 + displacement_at(*code, 2), kFlag);
  const auto copy = decode(ConstBytes(*code).subspan(7), kSlot + 7);
  EXPECT_TRUE(copy && copy->aes == site.form);
  const auto back = decode(ConstBytes(*code).subspan(12), kSlot + 12);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->flow, Flow::kJump);
  EXPECT_EQ(back->target, kAddress + 5);
}

TEST(Trampoline, ARelativeOperandStaysTheSame) {
  const AesSite site = site_of({0x66, 0x0f, 0x38, 0xdc, 0x05, 0x00, 0x10, 0x00, 0x00});
  const auto code = make_slot(site, kAddress, kSlot, kFlag);
  ASSERT_TRUE(code);
  EXPECT_EQ(kSlot + 7 + 9 + displacement_at(*code, 7 + 5), kAddress + 9 + 0x1000);
}

TEST(Trampoline, WhatIsOutOfReachIsNotMade) {
  const AesSite site = site_of({0x66, 0x0f, 0x38, 0xdc, 0xc1});
  EXPECT_FALSE(make_slot(site, kAddress, kAddress + (uint64_t{3} << 30), kFlag));
  EXPECT_FALSE(make_slot(site, kAddress, kSlot, kAddress + (uint64_t{3} << 30)));
  EXPECT_FALSE(make_jump(kAddress, kAddress - (uint64_t{3} << 30)));
}

TEST(Trampoline, AJumpLeadsWhereItWasMadeTo) {
  const auto jump = make_jump(kAddress, kSlot);
  ASSERT_TRUE(jump);
  EXPECT_EQ(jump_target(*jump, kAddress), kSlot);
  const auto found = decode(*jump, kAddress);
  EXPECT_TRUE(found && found->target == kSlot);
  EXPECT_FALSE(jump_target(JumpCode{}, kAddress));
}

TEST(Trampoline, ASlotOfAnEarlierWitnessIsKnown) {
  const AesSite site = site_of({0x66, 0x0f, 0x38, 0xdc, 0xc1});
  const AesSite other = site_of({0x66, 0x0f, 0x38, 0xdd, 0xc1});
  const auto code = make_slot(site, kAddress, kSlot, kFlag);
  ASSERT_TRUE(code);
  EXPECT_TRUE(is_slot_of(*code, kSlot, site, kAddress));
  EXPECT_FALSE(is_slot_of(*code, kSlot, other, kAddress));
  EXPECT_FALSE(is_slot_of(*code, kSlot, site, kAddress + 16));
}

TEST(Trampoline, TheHookPutsItsSystemCallWhereItSays) {
  const HookCode hook = make_hook();
  EXPECT_EQ(hook[kHookSignalOffset - 2], std::byte{0x0f});
  EXPECT_EQ(hook[kHookSignalOffset - 1], std::byte{0x05});
  size_t at = 0;
  std::optional<Instruction> last;
  while (!last || last->flow != Flow::kEnd) {
    ASSERT_LT(at, hook.size());
    last = decode(ConstBytes(hook).subspan(at), at);
    ASSERT_TRUE(last);
    at += last->length;
  }
}

}  // namespace
}  // namespace cofre::witness
