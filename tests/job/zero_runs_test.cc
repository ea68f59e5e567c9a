#include "job/zero_runs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/test_seed.h"

namespace cofre::job {
namespace {

// Byte by byte: which bytes of [offset, offset + size) lie in a block of zeros that counts.
std::vector<bool> model(const std::vector<std::byte>& bytes, uint64_t offset, const ZeroBlocks& blocks) {
  std::vector<bool> zero(bytes.size(), false);
  const uint64_t end = offset + bytes.size();
  for (uint64_t block = offset / blocks.block_bytes; block * blocks.block_bytes < end; ++block) {
    const uint64_t start = std::max(block * blocks.block_bytes, offset);
    const uint64_t stop = std::min((block + 1) * blocks.block_bytes, end);
    if (start % blocks.grain_bytes != 0) continue;
    if (stop % blocks.grain_bytes != 0 && stop != blocks.target_end) continue;
    bool all = true;
    for (uint64_t at = start; at < stop; ++at) all &= bytes[at - offset] == std::byte{0};
    for (uint64_t at = start; at < stop; ++at) zero[at - offset] = all;
  }
  return zero;
}

TEST(ZeroRuns, AgreeWithTheModel) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t grain = 64;
    const uint64_t block = grain * (1 + random() % 8);
    const uint64_t offset = random() % 3 == 0 ? grain * (random() % 50) : random() % 2000;
    std::vector<std::byte> bytes(1 + random() % 4000);
    for (uint64_t dirt = random() % 6; dirt > 0; --dirt) bytes[random() % bytes.size()] = std::byte{1};
    if (random() % 2 == 0) bytes.resize((bytes.size() + grain - 1) / grain * grain);
    const uint64_t target_end = offset + bytes.size() + random() % 2;
    const ZeroBlocks blocks{block, grain, target_end};
    const std::vector<bool> expected = model(bytes, offset, blocks);
    bool before = false;
    for (uint64_t at = 0; at < bytes.size();) {
      const auto run = first_run(ConstBytes(bytes).subspan(at), offset + at, blocks);
      ASSERT_GT(run.length, 0u);
      ASSERT_LE(run.length, bytes.size() - at);
      ASSERT_TRUE(at == 0 || run.zero != before) << "runs of one kind are joined";
      for (uint64_t i = at; i < at + run.length; ++i) ASSERT_EQ(run.zero, expected[i]) << i;
      at += run.length;
      before = run.zero;
    }
  }
}

}  // namespace
}  // namespace cofre::job
