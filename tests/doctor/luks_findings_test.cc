// Every finding on a LUKS header, where it appears and where it does not.
#include "doctor/luks_findings.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "doctor/ids.h"

namespace cofre::doctor {
namespace {

luks::Luks1Header usual_header() {
  luks::Luks1Header header = luks::luks1_plan_header(crypto::CipherSpec{}, crypto::DigestAlgorithm::sha256);
  header.volume_key_iterations = 200'000;
  header.keyslots[0].active = true;
  header.keyslots[0].iterations = 1'500'000;
  return header;
}

Section judged(const luks::Luks1Header& header, uint64_t bytes = kGiB, UnlockCost cost = {}) {
  Section section{.name = "image", .title = "Image"};
  judge_luks(header, cost, bytes, "disk", section);
  return section;
}

luks::Luks1Header with_cipher(const std::string& name, const std::string& mode, size_t key_bytes) {
  luks::Luks1Header header = usual_header();
  header.cipher = crypto::parse_luks_cipher(name, mode, key_bytes);
  return header;
}

TEST(Luks, TheDefaultIsFine) {
  const Section section = judged(usual_header());
  ASSERT_EQ(section.findings.size(), 1u);
  EXPECT_EQ(found(section, "luks-keyslots"), "ok");
  EXPECT_EQ(section.findings[0].subject, "disk");
}

TEST(Luks, WeakModes) {
  EXPECT_EQ(found(judged(with_cipher("aes", "ecb", 32)), "luks-ecb"), "attention");
  EXPECT_EQ(found(judged(with_cipher("aes", "ctr-plain64", 32)), "luks-ctr"), "attention");
  EXPECT_EQ(found(judged(with_cipher("aes", "cbc-plain64", 32)), "luks-predictable-iv"), "attention");
  EXPECT_EQ(found(judged(with_cipher("aes", "cbc-plain", 32)), "luks-predictable-iv"), "attention");
  EXPECT_EQ(attentions(judged(with_cipher("aes", "cbc-essiv:sha256", 32))), 0u);
  EXPECT_EQ(attentions(judged(with_cipher("serpent", "xts-plain64", 64))), 0u);
}

TEST(Luks, ShortIvsOnLargeDisks) {
  const luks::Luks1Header plain = with_cipher("aes", "xts-plain", 64);
  EXPECT_EQ(found(judged(plain, 2 * kTiB), "luks-plain-wraps"), "");
  EXPECT_EQ(found(judged(plain, 2 * kTiB + 512), "luks-plain-wraps"), "attention");
  EXPECT_EQ(found(judged(usual_header(), 3 * kTiB), "luks-plain-wraps"), "");
}

TEST(Luks, SmallBlocks) {
  EXPECT_EQ(found(judged(with_cipher("cast5", "cbc-essiv:md5", 16)), "luks-small-block"), "attention");
  EXPECT_EQ(found(judged(usual_header()), "luks-small-block"), "");
}

TEST(Luks, FewIterations) {
  luks::Luks1Header header = usual_header();
  header.keyslots[3].active = true;
  header.keyslots[3].iterations = 599'999;
  EXPECT_EQ(found(judged(header), "luks-few-iterations"), "attention");
  header.keyslots[3].iterations = 600'000;
  EXPECT_EQ(found(judged(header), "luks-few-iterations"), "");
  header.keyslots[3] = {.active = false, .iterations = 1};
  EXPECT_EQ(found(judged(header), "luks-few-iterations"), "");
  // sha512 asks for fewer, sha1 for more.
  header.keyslots[0].iterations = 700'000;
  header.hash = crypto::DigestAlgorithm::sha1;
  EXPECT_EQ(found(judged(header), "luks-few-iterations"), "attention");
  header.keyslots[0].iterations = 250'000;
  header.hash = crypto::DigestAlgorithm::sha512;
  EXPECT_EQ(found(judged(header), "luks-few-iterations"), "");
}

TEST(Luks, Sha1) {
  luks::Luks1Header header = usual_header();
  EXPECT_EQ(found(judged(header), "luks-sha1"), "");
  header.hash = crypto::DigestAlgorithm::sha1;
  EXPECT_EQ(found(judged(header), "luks-sha1"), "note");
}

TEST(Luks, NoKeyslot) {
  luks::Luks1Header header = usual_header();
  header.keyslots[0].active = false;
  EXPECT_EQ(found(judged(header), "luks-no-keyslot"), "attention");
  EXPECT_EQ(found(judged(header), "luks-keyslots"), "");
  EXPECT_EQ(found(judged(usual_header()), "luks-no-keyslot"), "");
}

TEST(Luks, WhatAnUnlockCosts) {
  luks::Luks1Header header = usual_header();
  const UnlockCost cost = {1'000'000};
  // 64 bytes of key are two blocks of sha256, the digest is one: 1.5 s and a tenth.
  EXPECT_DOUBLE_EQ(cost.keyslot_ms(header, 0), 1600);
  EXPECT_EQ(UnlockCost{}.keyslot_ms(header, 0), 0);
  EXPECT_NE(sentence(judged(header, kGiB, cost), "luks-keyslots").find("1600 ms"), std::string::npos);
  EXPECT_EQ(found(judged(header, kGiB, cost), "luks-slow-unlock"), "");
  header.keyslots[0].iterations = UINT32_MAX;
  EXPECT_EQ(found(judged(header, kGiB, cost), "luks-slow-unlock"), "note");
}

TEST(Luks, TheCostIsMeasured) {
  EXPECT_GT(measure_unlock_cost(usual_header()).iterations_per_second, 1000);
}

}  // namespace
}  // namespace cofre::doctor
