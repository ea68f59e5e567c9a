// Every finding on a host, where it appears and where it does not; and the facts of the host of this test.
#include "doctor/host.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>

#include "crypto/aes/select.h"
#include "doctor/ids.h"

namespace cofre::doctor {
namespace {

HostFacts healthy_host() {
  HostFacts facts;
  for (const crypto::CpuFeatureName& feature : crypto::kCpuFeatureNames)
    facts.cpu.features.*feature.member = true;
  facts.cpu.ymm_saved = facts.cpu.zmm_saved = true;
  facts.kernel = facts.best_kernel = "vaes512";
  facts.kernel_description = "VAES";
  facts.kernel_release = "6.1.0";
  facts.huge_pages = "madvise";
  facts.memory_lock = {.limit_bytes = 8 << 20, .needed_bytes = 300 << 10};
  return facts;
}

KernelSpeed speed(const std::string& by, double xts, bool library, bool in_use) {
  return {by, library, in_use, {xts, xts, xts, xts}};
}

TEST(Host, AHealthyOneNeedsNoAttention) {
  HostFacts facts = healthy_host();
  facts.speeds = {speed("vaes512", 13e9, false, true), speed("aesni", 5e9, false, false),
                  speed("OpenSSL 3", 3e9, true, false)};
  const Section section = examine_host(facts);
  for (const Finding& finding : section.findings) EXPECT_EQ(finding.severity, Severity::kOk) << finding.id;
  for (const char* id : {"cpu-aes", "aes-kernel", "aes-speed", "io-uring", "huge-pages", "memory-lock"})
    EXPECT_EQ(found(section, id), "ok") << id;
}

TEST(Host, AProcessorWithoutAes) {
  HostFacts facts = healthy_host();
  facts.cpu.features.aes = false;
  const Section section = examine_host(facts);
  EXPECT_EQ(found(section, "cpu-no-aes"), "attention");
  EXPECT_EQ(found(section, "cpu-aes"), "");
}

TEST(Host, RegistersThatNobodySaves) {
  HostFacts facts = healthy_host();
  facts.cpu.zmm_saved = false;
  Section section = examine_host(facts);
  EXPECT_EQ(found(section, "cpu-state-not-saved"), "attention");
  EXPECT_NE(sentence(section, "cpu-state-not-saved").find("avx512f"), std::string::npos);
  EXPECT_EQ(sentence(section, "cpu-state-not-saved").find("avx2"), std::string::npos);
  EXPECT_FALSE(section.facts["cpu"]["usable"]["avx512f"].get<bool>());
  EXPECT_TRUE(section.facts["cpu"]["offered"]["avx512f"].get<bool>());
  EXPECT_TRUE(section.facts["cpu"]["usable"]["vaes"].get<bool>());

  facts.cpu.ymm_saved = false;
  section = examine_host(facts);
  EXPECT_NE(sentence(section, "cpu-state-not-saved").find("vaes"), std::string::npos);
  EXPECT_FALSE(section.facts["cpu"]["usable"]["vaes"].get<bool>());
  EXPECT_TRUE(section.facts["cpu"]["usable"]["aes"].get<bool>());
}

TEST(Host, ForcedKernels) {
  HostFacts facts = healthy_host();
  facts.forced_kernel = "vaes512";
  EXPECT_EQ(found(examine_host(facts), "aes-kernel-forced"), "note");

  facts.forced_kernel = facts.kernel = "aesni";
  EXPECT_EQ(found(examine_host(facts), "aes-kernel-forced-lesser"), "attention");
  EXPECT_EQ(found(examine_host(facts), "aes-kernel-forced"), "");

  facts.kernel.clear();
  facts.kernel_refusal = "there is none";
  EXPECT_EQ(found(examine_host(facts), "aes-kernel-refused"), "attention");
  EXPECT_EQ(found(examine_host(healthy_host()), "aes-kernel-refused"), "");
}

TEST(Host, SpeedsThatShouldBeOtherwise) {
  HostFacts facts = healthy_host();
  facts.speeds = {speed("vaes512", 5e9, false, true), speed("vaes256", 7e9, false, false),
                  speed("OpenSSL 3", 3e9, true, false)};
  EXPECT_EQ(found(examine_host(facts), "aes-other-kernel-faster"), "note");
  EXPECT_EQ(found(examine_host(facts), "aes-library-faster"), "");
  // A difference such as noise makes.
  facts.speeds[1] = speed("vaes256", 5.3e9, false, false);
  EXPECT_EQ(found(examine_host(facts), "aes-other-kernel-faster"), "");
  facts.speeds[2] = speed("OpenSSL 3", 9e9, true, false);
  EXPECT_EQ(found(examine_host(facts), "aes-library-faster"), "attention");
}

TEST(Host, WhyThereIsNoIoUring) {
  HostFacts facts = healthy_host();
  facts.io_uring_refusal = EPERM;
  facts.io_uring_disabled = 2;
  facts.seccomp_filter = true;
  EXPECT_EQ(found(examine_host(facts), "io-threads"), "note");
  EXPECT_EQ(found(examine_host(facts), "io-uring"), "");
  EXPECT_NE(sentence(examine_host(facts), "io-threads").find("kernel.io_uring_disabled is 2"),
            std::string::npos);
  facts.io_uring_disabled = 0;
  EXPECT_NE(sentence(examine_host(facts), "io-threads").find("seccomp"), std::string::npos);
  facts.seccomp_filter = false;
  facts.io_uring_refusal = ENOSYS;
  EXPECT_NE(sentence(examine_host(facts), "io-threads").find("6.1.0"), std::string::npos);
  facts.io_uring_refusal = ENOMEM;
  EXPECT_NE(sentence(examine_host(facts), "io-threads").find("memory"), std::string::npos);
}

TEST(Host, HugePages) {
  HostFacts facts = healthy_host();
  facts.huge_pages = "never";
  EXPECT_EQ(found(examine_host(facts), "huge-pages-off"), "note");
  EXPECT_EQ(found(examine_host(facts), "huge-pages"), "");
  EXPECT_EQ(found(examine_host(healthy_host()), "huge-pages-off"), "");
  EXPECT_EQ(chosen_word("always [madvise] never"), "madvise");
  EXPECT_EQ(chosen_word("always"), "");
  EXPECT_EQ(chosen_word("]["), "");
}

TEST(Host, MemoryThatCannotBeLocked) {
  HostFacts facts = healthy_host();
  facts.memory_lock.refusal = ENOMEM;
  EXPECT_EQ(found(examine_host(facts), "memory-lock-refused"), "attention");
  EXPECT_EQ(found(examine_host(facts), "memory-lock"), "");
}

TEST(Host, ThisOneIsLookedAt) {
  const HostFacts facts = look_at_host();
  EXPECT_EQ(facts.cpu, crypto::cpu_offer());
  EXPECT_EQ(facts.best_kernel, crypto::best_aes_kernel(crypto::cpu_features()).name);
  if (std::getenv("COFRE_AES") == nullptr) {
    EXPECT_EQ(facts.kernel, facts.best_kernel);
  }
  // A keyslot's material of 4000 stripes, and then some.
  EXPECT_GT(facts.memory_lock.needed_bytes, 256'000u);
  EXPECT_FALSE(facts.kernel_release.empty());
}

TEST(Speeds, AreMeasuredForEveryKernelAndTwoLibraries) {
  const std::string in_use(crypto::best_aes_kernel(crypto::cpu_features()).name);
  const std::vector<KernelSpeed> speeds = measure_aes_speeds(in_use, std::chrono::milliseconds(2));
  size_t runnable = 0;
  for (const crypto::AesKernel* kernel : crypto::aes_kernels())
    runnable += crypto::has_all(crypto::cpu_features(), kernel->needs) ? 1 : 0;
  ASSERT_EQ(speeds.size(), runnable + 2);
  for (const KernelSpeed& entry : speeds) {
    EXPECT_GT(entry.speed.xts256_encrypt, 0) << entry.by;
    EXPECT_GT(entry.speed.xts256_decrypt, 0) << entry.by;
    EXPECT_GT(entry.speed.cbc128_encrypt, 0) << entry.by;
    EXPECT_GT(entry.speed.cbc128_decrypt, 0) << entry.by;
    EXPECT_EQ(entry.in_use, entry.by == in_use);
  }
  EXPECT_TRUE(speeds[runnable].is_library);
  EXPECT_TRUE(speeds[runnable].by.starts_with("OpenSSL 3"));
  EXPECT_TRUE(speeds[runnable + 1].by.starts_with("libgcrypt "));
}

TEST(Speeds, ReadWell) {
  EXPECT_EQ(speed_text(13.24e9), "13.2 GB/s");
  EXPECT_EQ(speed_text(680.4e6), "680 MB/s");
}

}  // namespace
}  // namespace cofre::doctor
