// The same work done by qemu-img (QEMU 7.2), and the results held against each other.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "io/lanes.h"
#include "job/compare.h"
#include "job/convert.h"
#include "job/scratch_dir.h"
#include "storage/file.h"

namespace cofre::job {
namespace {

using storage::FileDevice;
using test::ScratchDir;

struct Finished {
  int status;
  std::string output;
};

Finished run_program(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, "popen failed"};
  std::string output;
  std::array<char, 512> piece;
  while (fgets(piece.data(), piece.size(), pipe) != nullptr) output += piece.data();
  return {WEXITSTATUS(pclose(pipe)), output};
}

// The ranges of data behind the first block, which qemu-img allocates always (so that O_DIRECT can be
// probed).
std::vector<std::pair<uint64_t, uint64_t>> comparable_ranges(const std::string& path) {
  auto ranges = test::data_ranges(path);
  if (!ranges.empty() && ranges[0].first < 4096) ranges[0].first = 4096;
  if (!ranges.empty() && ranges[0].first >= ranges[0].second) ranges.erase(ranges.begin());
  return ranges;
}

std::unique_ptr<FileDevice> convert_files(io::Lanes& lanes, const std::vector<std::string>& from,
                                          const std::string& to, uint64_t sparse_bytes) {
  std::vector<std::unique_ptr<FileDevice>> opened;
  std::vector<block::Device*> sources;
  uint64_t length = 0;
  for (const std::string& path : from) {
    opened.push_back(FileDevice::open(path, {.read_only = true}));
    sources.push_back(opened.back().get());
    length += align_up<uint64_t>(opened.back()->length_bytes(), kSectorBytes);
  }
  auto target = FileDevice::create(to, {}, /*truncate=*/true);
  lanes.run(target->resize(length));
  lanes.run(convert(lanes, sources, *target, {.sparse_bytes = sparse_bytes, .target_reads_zero = true}));
  return target;
}

TEST(QemuImg, ConvertRawGivesTheSameBytesAndTheSameHoles) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDir dir;
  io::Lanes lanes(2);
  for (const uint64_t sparse_bytes : {4096u, 0u, 512u, 65536u}) {
    for (const bool two : {false, true}) {
      std::vector<std::string> from = {dir.sparse_file("a", kMiB + random() % (4 * kMiB), random)};
      if (two) from.push_back(dir.sparse_file("b", random() % kMiB / 512 * 512, random));
      std::string command = "qemu-img convert -f raw -O raw -S " + std::to_string(sparse_bytes);
      for (const std::string& path : from) command += " " + path;
      const Finished done = run_program(command + " " + dir.path("theirs"));
      ASSERT_EQ(done.status, 0) << done.output;
      lanes.run(convert_files(lanes, from, dir.path("ours"), sparse_bytes)->close());
      EXPECT_EQ(test::read_file(dir.path("ours")), test::read_file(dir.path("theirs")));
      if (two && sparse_bytes > 4096) continue;  // long runs across two sources are cut otherwise
      EXPECT_EQ(comparable_ranges(dir.path("ours")), comparable_ranges(dir.path("theirs"))) << command;
    }
  }
}

// As the tool prints it.
std::string sentence(const CompareResult& result) {
  const std::string warning = result.sizes_differ ? "Warning: Image size mismatch!\n" : "";
  switch (result.outcome) {
    case CompareOutcome::kIdentical:
      return warning + "Images are identical.\n";
    case CompareOutcome::kContentMismatch:
      return warning + "Content mismatch at offset " + std::to_string(result.offset) + "!\n";
    case CompareOutcome::kAllocationMismatch:
      return "Strict mode: Offset " + std::to_string(result.offset) + " block status mismatch!\n";
    case CompareOutcome::kSizeMismatch:
      return "Strict mode: Image size mismatch!\n";
  }
  return "";
}

TEST(QemuImg, CompareSaysTheSame) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDir dir;
  io::Lanes lanes(2);
  for (int round = 0; round < 20; ++round) {
    const std::string a = dir.sparse_file("a", (1 + random() % 4000) * 512, random);
    const std::string b = dir.path("b");
    lanes.run(convert_files(lanes, {a}, b, random() % 2 * 4096)->close());
    const auto changed = FileDevice::open(b, {});
    if (random() % 2 == 0) lanes.run(changed->resize(changed->length_bytes() + random() % 100 * 512));
    const std::vector<std::byte> change(1 + random() % 600, static_cast<std::byte>(random() % 2));
    const uint64_t at = random() % changed->length_bytes();
    if (random() % 2 == 0 && at + change.size() <= changed->length_bytes())
      lanes.run(changed->write(at, change));
    const auto original = FileDevice::open(a, {.read_only = true});
    const bool strict = changed->length_bytes() != original->length_bytes() && random() % 2 == 0;
    const Finished theirs =
        run_program("qemu-img compare -f raw -F raw " + std::string(strict ? "-s " : "") + a + " " + b);
    const CompareResult ours = lanes.run(compare(lanes, *original, *changed, {.strict = strict}));
    EXPECT_EQ(sentence(ours), theirs.output);
  }
}

}  // namespace
}  // namespace cofre::job
