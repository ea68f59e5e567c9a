// What is read from an ELF file: this very program, into which forms.S is linked.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "witness/code_map.h"

namespace cofre::witness {
namespace {

class OpenedFile {
 public:
  explicit OpenedFile(const char* path) : fd(::open(path, O_RDONLY | O_CLOEXEC)) {}
  ~OpenedFile() { ::close(fd); }
  OpenedFile(const OpenedFile&) = delete;
  OpenedFile& operator=(const OpenedFile&) = delete;
  const int fd;
};

const ModuleCode& own_code() {
  static const ModuleCode code = read_code(OpenedFile("/proc/self/exe").fd, "itself");
  return code;
}

std::vector<AesForm> forms_in(const std::string& function) {
  std::vector<AesForm> forms;
  for (const AesSite& site : own_code().sites)
    if (own_code().functions[site.function].name == function) forms.push_back(site.form);
  return forms;
}

using Forms = std::vector<AesForm>;

TEST(ElfFile, EveryFormIsFoundInItsFunction) {
  using enum AesOperation;
  using enum Encoding;
  EXPECT_EQ(forms_in("legacy_aesenc"), (Forms{{kEnc, kLegacy, 128}}));
  EXPECT_EQ(forms_in("legacy_aeskeygenassist"), (Forms{{kKeygenAssist, kLegacy, 128}}));
  EXPECT_EQ(forms_in("vex128_vaesimc"), (Forms{{kImc, kVex, 128}}));
  EXPECT_EQ(forms_in("vex256_vaesdeclast"), (Forms{{kDecLast, kVex, 256}}));
  EXPECT_EQ(forms_in("evex128_vaesenc"), (Forms{{kEnc, kEvex, 128}}));
  EXPECT_EQ(forms_in("evex256_vaesdec"), (Forms{{kDec, kEvex, 256}}));
  EXPECT_EQ(forms_in("evex512_vaesenclast"), (Forms{{kEncLast, kEvex, 512}}));
  EXPECT_EQ(forms_in("chain").size(), 7u);
}

TEST(ElfFile, DataAmongCodeIsLeftAlone) {
  using enum AesOperation;
  EXPECT_EQ(forms_in("data_inside"),
            (Forms{{kEnc, Encoding::kLegacy, 128}, {kEncLast, Encoding::kLegacy, 128}}));
  EXPECT_EQ(forms_in("odd_data_inside"), (Forms{{kDec, Encoding::kLegacy, 128}}));
  EXPECT_EQ(own_code().unproven, 3u);
  EXPECT_EQ(forms_in("outside"), Forms{});
  EXPECT_GE(own_code().unbounded, 1u);
}

TEST(ElfFile, SitesAreInOrder) {
  EXPECT_TRUE(std::ranges::is_sorted(own_code().sites, {}, &AesSite::address));
}

TEST(ElfFile, TheDynamicLinkerIsOverheard) {
  const ModuleCode linker = read_code(OpenedFile("/lib64/ld-linux-x86-64.so.2").fd, "ld.so");
  EXPECT_TRUE(linker.loader_hook);
  EXPECT_FALSE(own_code().loader_hook);
}

TEST(ElfFile, WhatIsNoneIsRefused) {
  EXPECT_THROW(read_code(OpenedFile("/proc/self/cmdline").fd, "text"), Error);
  EXPECT_THROW(read_code(OpenedFile("/dev/null").fd, "nothing"), Error);
}

}  // namespace
}  // namespace cofre::witness
