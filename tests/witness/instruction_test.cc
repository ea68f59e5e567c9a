// Decoding single instructions.
#include "witness/instruction.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

namespace cofre::witness {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

std::optional<Instruction> decoded(std::initializer_list<int> values) {
  return decode(bytes_of(values), 0x1000);
}

// Encodings as GNU as and LLVM's assembler write them.
TEST(Instruction, TellsTheFormsOfAes) {
  struct Case {
    std::vector<std::byte> bytes;
    AesForm form;
    uint8_t destination;
  };
  using enum AesOperation;
  using enum Encoding;
  const Case cases[] = {
      {bytes_of({0x66, 0x0f, 0x38, 0xdc, 0xc1}), {kEnc, kLegacy, 128}, 0},
      {bytes_of({0x66, 0x45, 0x0f, 0x38, 0xdd, 0xc1}), {kEncLast, kLegacy, 128}, 8},
      {bytes_of({0x66, 0x0f, 0x38, 0xde, 0x05, 1, 0, 0, 0}), {kDec, kLegacy, 128}, 0},
      {bytes_of({0x66, 0x0f, 0x38, 0xdf, 0xc1}), {kDecLast, kLegacy, 128}, 0},
      {bytes_of({0x66, 0x0f, 0x38, 0xdb, 0xd1}), {kImc, kLegacy, 128}, 2},
      {bytes_of({0x66, 0x0f, 0x3a, 0xdf, 0xc1, 0x01}), {kKeygenAssist, kLegacy, 128}, 0},
      {bytes_of({0xc4, 0xe2, 0x69, 0xdc, 0xc1}), {kEnc, kVex, 128}, 0},
      {bytes_of({0xc4, 0xe2, 0x6d, 0xdc, 0xc1}), {kEnc, kVex, 256}, 0},
      {bytes_of({0xc4, 0x42, 0x6d, 0xdd, 0xc1}), {kEncLast, kVex, 256}, 8},
      {bytes_of({0xc4, 0xe3, 0x79, 0xdf, 0xc1, 0x01}), {kKeygenAssist, kVex, 128}, 0},
      {bytes_of({0x62, 0xa2, 0x6d, 0x08, 0xdc, 0xc1}), {kEnc, kEvex, 128}, 16},
      {bytes_of({0x62, 0xa2, 0x6d, 0x28, 0xde, 0xc1}), {kDec, kEvex, 256}, 16},
      {bytes_of({0x62, 0xf2, 0x6d, 0x48, 0xdf, 0xc1}), {kDecLast, kEvex, 512}, 0},
      {bytes_of({0x62, 0x22, 0x6d, 0x48, 0xdf, 0xf9}), {kDecLast, kEvex, 512}, 31},
  };
  for (const Case& expected : cases) {
    const auto found = decode(expected.bytes, 0);
    ASSERT_TRUE(found && found->aes) << mnemonic(expected.form) << " " << expected.form.width_bits;
    EXPECT_EQ(*found->aes, expected.form) << mnemonic(expected.form);
    EXPECT_EQ(found->destination, expected.destination) << mnemonic(expected.form);
    EXPECT_EQ(found->length, expected.bytes.size());
    EXPECT_EQ(found->flow, Flow::kNext);
    EXPECT_TRUE(may_hold_aes(expected.bytes));
  }
}

TEST(Instruction, KnowsWhereAnOperandIsRelative) {
  EXPECT_EQ(decoded({0x66, 0x0f, 0x38, 0xdc, 0x05, 1, 0, 0, 0})->rip_offset, 5);
  EXPECT_EQ(decoded({0x66, 0x0f, 0x38, 0xdc, 0x07})->rip_offset, std::nullopt);
}

TEST(Instruction, OthersAreNotAes) {
  EXPECT_FALSE(decoded({0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00})->aes);  // pclmulqdq
  EXPECT_FALSE(decoded({0x66, 0x0f, 0xef, 0xc1})->aes);              // pxor
  EXPECT_FALSE(may_hold_aes(bytes_of({0x66, 0x0f, 0xef, 0xdc, 0xdf, 0x0f, 0x38, 0x00})));
}

TEST(Instruction, TellsWhereFlowGoes) {
  EXPECT_EQ(decoded({0xc3})->flow, Flow::kEnd);
  EXPECT_EQ(decoded({0x0f, 0x0b})->flow, Flow::kEnd);
  EXPECT_EQ(decoded({0xff, 0xe0})->flow, Flow::kIndirectJump);
  EXPECT_EQ(decoded({0xff, 0xd0})->flow, Flow::kCall);
  EXPECT_EQ(decoded({0xff, 0xd0})->target, std::nullopt);
  const auto branch = decoded({0x74, 0xfe});
  EXPECT_EQ(branch->flow, Flow::kBranch);
  EXPECT_EQ(branch->target, 0x1000);
  EXPECT_EQ(decoded({0xe9, 0x10, 0, 0, 0})->target, 0x1015);
  EXPECT_EQ(decoded({0xe8, 0xfb, 0xff, 0xff, 0xff})->target, 0x1000);
}

TEST(Instruction, WhatIsNoneIsSaidSo) {
  EXPECT_FALSE(decoded({0x06}));        // not in 64-bit mode
  EXPECT_FALSE(decoded({0x66, 0x0f}));  // cut short
  EXPECT_FALSE(decode({}, 0));
}

}  // namespace
}  // namespace cofre::witness
