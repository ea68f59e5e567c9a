// What is counted, and the verdict's sentences.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "witness/count_hits.h"
#include "witness/report.h"

namespace cofre::witness {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using enum AesOperation;
using enum Encoding;

constexpr CpuAes kAllOfIt = {.aesni = true, .vaes256 = true, .vaes512 = true};
constexpr CpuAes kOnlyAesni = {.aesni = true};

ModuleReport module_with(const std::string& path, const AesForm& form, size_t hit, unsigned blocks) {
  return {
      .path = path,
      .sites = {.hit = hit, .present = 10},
      .watched = 10,
      .functions = {{.name = "f", .named = true, .forms = {{form, {hit, 10}}}, .blocks_at_a_time = blocks}}};
}

Report report_of(std::vector<ModuleReport> modules) {
  return {.modules = std::move(modules)};
}

// A function whose rounds write these registers one after the other.
ModuleReport counted(const std::vector<int>& registers, uint16_t width_bits) {
  const auto module = std::make_shared<Module>();
  module->code.functions = {{"f", {}}};
  for (const int number : registers) {
    AesSite site;
    site.form = {kEnc, kVex, width_bits};
    site.instruction.destination = static_cast<uint8_t>(number);
    module->code.sites.push_back(site);
  }
  module->hit.assign(registers.size(), true);
  module->watched.assign(registers.size(), true);
  return count_hits({module}).at(0);
}

TEST(CountHits, TellsHowManyBlocksAreOnTheirWay) {
  EXPECT_EQ(counted({1, 1, 1}, 128).functions[0].blocks_at_a_time, 1u);
  EXPECT_EQ(counted({0, 1, 2, 0, 1, 2}, 128).functions[0].blocks_at_a_time, 3u);
  EXPECT_EQ(counted({0, 1, 0, 1}, 512).functions[0].blocks_at_a_time, 8u);
  // As compilers order them: to and fro, or as it comes.
  EXPECT_EQ(counted({3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0}, 512).functions[0].blocks_at_a_time, 16u);
  EXPECT_EQ(counted({0, 1, 2, 3, 2, 0, 3, 1, 1, 2, 0, 3}, 128).functions[0].blocks_at_a_time, 4u);
  EXPECT_EQ(counted({5}, 256).functions[0].blocks_at_a_time, 2u);
  // Three side by side, then a lonely one, then three again: never four.
  EXPECT_EQ(counted({0, 1, 2, 0, 1, 2, 9, 9, 0, 1, 2, 0, 1, 2}, 128).functions[0].blocks_at_a_time, 3u);
}

TEST(CountHits, CountsWhatWasHit) {
  const ModuleReport report = counted({0, 1}, 256);
  EXPECT_EQ(report.sites.hit, 2u);
  EXPECT_EQ(report.watched, 2u);
  EXPECT_EQ(report.functions[0].forms.at({kEnc, kVex, 256}).present, 2u);
}

TEST(Verdict, SaysWhoseAndHowWide) {
  const Report report = report_of({module_with("/usr/lib/libnettle.so.8.6", {kEnc, kLegacy, 128}, 3, 1)});
  EXPECT_EQ(verdict(report, kAllOfIt),
            "nettle's AES-NI (libnettle.so.8.6), one block at a time: no VAES although the CPU has it");
  EXPECT_EQ(verdict(report, kOnlyAesni), "nettle's AES-NI (libnettle.so.8.6), one block at a time");
}

TEST(Verdict, NamesWiderRegistersThatStayUnused) {
  const Report report = report_of({module_with("/usr/bin/thing", {kDec, kVex, 256}, 3, 16)});
  EXPECT_EQ(
      verdict(report, kAllOfIt),
      "thing's VAES on 256-bit registers, up to 16 blocks at a time: not the 512-bit registers that the CPU "
      "has");
  const Report widest = report_of({module_with("/usr/bin/thing", {kDec, kEvex, 512}, 3, 32),
                                   module_with("/lib/libcrypto.so.3", {kEnc, kLegacy, 128}, 3, 1)});
  EXPECT_THAT(verdict(widest, kAllOfIt), HasSubstr("; OpenSSL's AES-NI (libcrypto.so.3)"));
  EXPECT_THAT(verdict(widest, kAllOfIt), Not(HasSubstr("CPU")));
}

TEST(Verdict, SaysWhenNothingRan) {
  const std::string none =
      verdict(report_of({module_with("/a/lib.so", {kEnc, kLegacy, 128}, 0, 0)}), kAllOfIt);
  EXPECT_THAT(none, HasSubstr("no AES instruction was executed, of 10 ready in lib.so"));
  EXPECT_THAT(none, HasSubstr("although the CPU has AES-NI"));
  EXPECT_THAT(verdict({}, kAllOfIt), HasSubstr("no AES instruction stands in the code"));
}

TEST(Verdict, ClaimsNothingOfWhatWasNotWatched) {
  ModuleReport module = module_with("/a/lib.so", {kEnc, kLegacy, 128}, 0, 0);
  module.watched = 0;
  EXPECT_THAT(verdict(report_of({module}), kAllOfIt), HasSubstr("not known: none of the 10"));
  EXPECT_THAT(verdict(report_of({{.path = "/bin/old", .unread = "it is not x86-64 code"}}), kAllOfIt),
              HasSubstr("Not examined: old"));
}

TEST(Verdict, ANothingThatIsNotSureSaysSo) {
  ModuleReport module = module_with("/a/lib.so", {kEnc, kLegacy, 128}, 0, 0);
  module.watched = 4;
  Report report = report_of({module});
  report.generated_code = true;
  EXPECT_THAT(verdict(report, kAllOfIt), HasSubstr("6 of them could not be watched"));
  EXPECT_THAT(verdict(report, kAllOfIt), HasSubstr("generated"));
  EXPECT_THAT(verdict(report, kAllOfIt), Not(HasSubstr("failed")));
  report.end = ProcessEnd{.exit_code = 1};
  EXPECT_THAT(verdict(report, kAllOfIt), HasSubstr("The program failed"));
}

TEST(Verdict, AKeyScheduleIsNoEncryption) {
  const Report report = report_of({module_with("/a/lib.so", {kKeygenAssist, kLegacy, 128}, 3, 0)});
  EXPECT_THAT(verdict(report, kAllOfIt), HasSubstr("no encrypting or decrypting AES instruction"));
}

TEST(Verdict, OfSamplesSaysTheShare) {
  Report report;
  report.sampled = {.method = "perf", .samples = 200, .routines = {{"/lib/libcrypto.so.3", "f", 50, true}}};
  EXPECT_EQ(verdict(report, kAllOfIt), "25.0 % of the program's own time is AES, 25.0 % in OpenSSL's f");
  report.sampled->routines = {
      {"/usr/bin/thing", "a::(anonymous namespace)::aes_table(int (*)(char))", 50, false}};
  EXPECT_EQ(verdict(report, kAllOfIt),
            "25.0 % of the program's own time is AES, 25.0 % in thing's a::aes_table: it is done in "
            "software, no AES "
            "instruction was met although the CPU has AES-NI");
  report.sampled->nameless_samples = 100;
  EXPECT_THAT(verdict(report, kOnlyAesni), HasSubstr("50.0 % is in routines without a name"));
  report.sampled->nameless_samples = 0;
  report.sampled->routines.clear();
  EXPECT_EQ(verdict(report, kAllOfIt), "no time was seen in routines of AES");
  report.end = ProcessEnd{.exit_code = 1};
  EXPECT_THAT(verdict(report, kAllOfIt), HasSubstr("The program failed"));
}

}  // namespace
}  // namespace cofre::witness
