// Which kernel is chosen, and which one really runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "crypto/aes_sector_cipher.h"
#include "crypto/reference.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

struct Outcome {
  int status;
  std::string output;
};

// The probe program with COFRE_AES set to `forced`, its standard error together with its output.
Outcome run_probe(const std::string& environment) {
  const std::string command = "env " + environment + " '" + COFRE_KERNEL_PROBE + "' 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {-1, "popen fails"};
  Outcome outcome{};
  char part[256];
  while (std::fgets(part, sizeof part, pipe) != nullptr) outcome.output += part;
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

TEST(AesSelect, ForcedKernelIsTheOneThatRuns) {
  for (const AesKernel* kernel : kernels_here()) {
    const Outcome outcome = run_probe("COFRE_AES=" + std::string(kernel->name));
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(outcome.output, std::string(kernel->name) + " 12\n");
  }
}

TEST(AesSelect, BestKernelRunsUnforced) {
  const Outcome outcome = run_probe("-u COFRE_AES");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, std::string(best_aes_kernel(cpu_features()).name) + " 12\n");
}

TEST(AesSelect, UnknownNameFailsAndNamesTheChoices) {
  for (const std::string name : {"sse9", "VAES512", "''"}) {
    const Outcome outcome = run_probe("COFRE_AES=" + name);
    EXPECT_EQ(outcome.status, 2) << name;
    for (const AesKernel* kernel : kernels_here())
      EXPECT_THAT(outcome.output, testing::HasSubstr(std::string(kernel->name)));
  }
}

TEST(AesSelect, KernelOfAnotherArchitectureFails) {
#if defined(__aarch64__)
  const std::string name = "aesni", processors = "x86-64";
#else
  const std::string name = "armv8", processors = "64-bit Arm";
#endif
  const Outcome outcome = run_probe("COFRE_AES=" + name);
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.output, testing::HasSubstr("cannot run the AES kernel " + name));
  EXPECT_THAT(outcome.output, testing::HasSubstr(processors));
  EXPECT_THAT(outcome.output, testing::HasSubstr("portable"));
}

TEST(AesSelect, KernelThatTheProcessorLacksFails) {
  for (const AesKernel* kernel : aes_kernels()) {
    if (kernel->needs == CpuFeatures{}) {
      EXPECT_EQ(&aes_kernel_named(kernel->name, {}), kernel);
      continue;
    }
    try {
      aes_kernel_named(kernel->name, {});
      ADD_FAILURE() << kernel->name << " was accepted without its features";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_THAT(error.what(), testing::HasSubstr("aes"));
      EXPECT_THAT(error.what(), testing::HasSubstr("portable"));
    }
  }
}

// Features taken away one at a time: the kernel chosen never needs one that is gone, and still computes AES.
TEST(AesSelect, FeaturesTakenAway) {
  CpuFeatures left = cpu_features();
  const CipherSpec spec{CipherAlgorithm::aes256, CipherMode::xts, IvGenerator::plain64,
                        DigestAlgorithm::sha256};
  const std::vector<std::byte> key(spec.key_bytes(), std::byte{0x5c});
  const std::vector<std::byte> plain(5 * 512, std::byte{0x3a});
  const auto expected = reference_encrypt(spec, key, 512, 1, 77, plain);
  for (size_t gone = kCpuFeatureNames.size(); gone-- > 0;) {
    left.*kCpuFeatureNames[gone].member = false;
    const AesKernel& kernel = best_aes_kernel(left);
    EXPECT_TRUE(has_all(left, kernel.needs));
    std::vector<std::byte> text(plain.size());
    const uint64_t before = kernel.sectors_done();
    make_aes_sector_cipher(kernel, spec, key, 512, 1)->encrypt(77, plain, text);
    EXPECT_EQ(text, expected) << kernel.name;
    EXPECT_EQ(kernel.sectors_done(), before + 5) << kernel.name;
  }
  EXPECT_EQ(best_aes_kernel(left).name, "portable");
}

TEST(AesSelect, EachKernelOutranksTheNext) {
  // With exactly the features a kernel needs, it or one of the better ones is chosen.
  const auto kernels = aes_kernels();
  for (size_t i = 0; i < kernels.size(); ++i) {
    const AesKernel& best = best_aes_kernel(kernels[i]->needs);
    EXPECT_TRUE(has_all(kernels[i]->needs, best.needs));
    EXPECT_LE(std::find(kernels.begin(), kernels.end(), &best) - kernels.begin(), static_cast<ptrdiff_t>(i));
  }
  EXPECT_EQ(kernels.back()->name, "portable");
}

TEST(CpuFeatures, MissingOnesAreNamed) {
  CpuFeatures need{};
  need.aes = true;
  need.vaes = true;
  EXPECT_EQ(missing_features({}, need), "aes, vaes");
  CpuFeatures have{};
  have.aes = true;
  EXPECT_EQ(missing_features(have, need), "vaes");
  EXPECT_FALSE(has_all(have, need));
  EXPECT_TRUE(has_all(need, have));
  EXPECT_EQ(missing_features(need, need), "");
}

// The kernel's word for it: a feature that we see is one that Linux lists. (Linux may hide none that we see.)
TEST(CpuFeatures, AgreesWithTheKernel) {
  FILE* file = std::fopen("/proc/cpuinfo", "r");
  ASSERT_NE(file, nullptr);
  std::string flags;
  char line[8192];
  while (std::fgets(line, sizeof line, file) != nullptr && flags.empty())
    if (std::string(line).starts_with("flags")) flags = " " + std::string(line) + " ";
  std::fclose(file);
  for (char& c : flags)
    if (c == '\n' || c == '\t') c = ' ';
  for (const CpuFeatureName& feature : kCpuFeatureNames) {
    const bool listed = flags.find(" " + std::string(feature.name) + " ") != std::string::npos;
    EXPECT_EQ(cpu_features().*feature.member, listed) << feature.name;
  }
}

}  // namespace
}  // namespace cofre::crypto
