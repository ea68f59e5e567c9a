// Random conversions against a model that looks at each sector by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/test_seed.h"
#include "block/checked.h"
#include "io/simulated_reactor.h"
#include "job/convert.h"
#include "job/layered_device.h"

namespace cofre::job {
namespace {

using test::LayeredDevice;
using test::Sector;

// One conversion with everything about it chosen at random.
struct Case {
  std::mt19937_64 random;
  std::unique_ptr<LayeredDevice> bottom;  // below the base
  std::unique_ptr<LayeredDevice> base;
  std::unique_ptr<LayeredDevice> middle;
  std::vector<std::unique_ptr<LayeredDevice>> sources;
  std::unique_ptr<LayeredDevice> target_backing;
  LayeredDevice* target = nullptr;  // owned by the checked one
  std::unique_ptr<block::Device> checked_target;
  ConvertOptions options;
  uint64_t grain = 0;

  uint64_t pick(std::initializer_list<uint64_t> choices) {
    return choices.begin()[random() % choices.size()];
  }
  uint64_t random_length() {
    const uint64_t length = random() % (random() % 3 == 0 ? 3 * kMiB : 300 * kKiB);
    return random() % 4 == 0 ? length : align_up<uint64_t>(length, kSectorBytes);
  }
  uint64_t longest_run() { return pick({3, 20, 300, 3000}); }

  explicit Case(uint64_t seed) : random(seed) {
    if (random() % 2 == 0) {
      make_chain();
    } else {
      make_many();
    }
    options.sparse_bytes = pick({0, 512, 4096, 4096, 8192, 12288, 65536, kMiB});
    options.parallel = static_cast<unsigned>(pick({0, 1, 2, 7}));
    options.out_of_order = random() % 3 != 0;
    make_target();
  }

  void make_chain() {
    bottom = std::make_unique<LayeredDevice>(random_length(), "bottom");
    base = std::make_unique<LayeredDevice>(random_length(), "base", bottom.get());
    middle = std::make_unique<LayeredDevice>(random_length(), "middle", base.get());
    sources.push_back(std::make_unique<LayeredDevice>(random_length(), "top", middle.get()));
    for (LayeredDevice* layer : {bottom.get(), base.get(), middle.get(), sources[0].get()})
      layer->randomize(random, longest_run(), /*with_unallocated=*/true);
    if (random() % 2 == 0) options.source_base = base.get();
  }

  void make_many() {
    for (uint64_t left = 1 + random() % 3; left > 0; --left) {
      sources.push_back(std::make_unique<LayeredDevice>(random_length(), "source"));
      sources.back()->randomize(random, longest_run(), /*with_unallocated=*/true);
      sources.back()->mutable_limits().request_alignment =
          static_cast<uint32_t>(pick({512, 512, 1024, 4096}));
      align_states(*sources.back());
    }
  }

  // A coarse request_alignment goes with states that change at its multiples only.
  void align_states(LayeredDevice& device) {
    const uint64_t alignment = device.limits().request_alignment;
    for (uint64_t at = 0; at < device.length_bytes(); at += alignment) {
      const uint64_t length = std::min(alignment, device.length_bytes() - at);
      const Sector state = device.sector(at / kSectorBytes);
      device.set(at, length, state,
                 state == Sector::kData ? static_cast<std::byte>(random() % 3) : std::byte{0});
    }
  }

  uint64_t source_bytes() const {
    uint64_t end = 0;
    for (const auto& source : sources) end = align_up<uint64_t>(end, kSectorBytes) + source->length_bytes();
    return end;
  }

  void make_target() {
    const uint64_t extra = random() % 2 == 0 ? 0 : random() % 20000;
    options.target_has_backing = options.source_base != nullptr || random() % 4 == 0;
    if (options.target_has_backing) {
      // The content that the base gives: the conversion leaves parts of it to this one.
      target_backing = std::make_unique<LayeredDevice>(
          options.source_base != nullptr ? base->length_bytes() : random_length(), "target's backing");
      target_backing->randomize(random, 50, true);
    }
    auto device = std::make_unique<LayeredDevice>(source_bytes() + extra, "target", target_backing.get());
    target = device.get();
    const uint32_t alignment = static_cast<uint32_t>(pick({512, 512, 4096}));
    grain = std::max<uint64_t>(alignment, pick({512, 4096, 65536}));
    target->mutable_limits().request_alignment = alignment;
    target->mutable_limits().discard_alignment = static_cast<uint32_t>(grain);
    target->mutable_limits().preferred_bytes = pick({4096, 65536, 2 * kMiB});
    target->mutable_limits().max_write_bytes = pick({UINT32_MAX & ~4095u, 128 * kKiB});
    target->zeroes_cheaply = random() % 4 != 0;
    options.compressed = random() % 3 == 0;  // the checked device sees to whole units then
    if (options.compressed) target->mutable_limits().compressed_unit_bytes = static_cast<uint32_t>(grain);
    options.target_reads_zero = options.source_base != nullptr || random() % 2 == 0;
    options.zero_tail = random() % 2 == 0;
    if (!options.target_reads_zero) target->set(0, target->length_bytes(), Sector::kData, std::byte{0xee});
    checked_target = block::make_checked(std::move(device));
  }

  std::vector<block::Device*> devices() const {
    std::vector<block::Device*> all;
    for (const auto& source : sources) all.push_back(source.get());
    return all;
  }
};

enum class Origin { kBase, kZero, kData };

// What the model knows of the whole target.
struct Expected {
  std::vector<std::byte> content;  // as a reader of the sources sees it, the rest zero
  std::vector<Origin> origin;      // of each sector
  uint64_t job_end = 0;
};

Origin origin_of(const LayeredDevice& top, const block::Device* base, uint64_t at) {
  for (const LayeredDevice* layer = &top; layer != nullptr;
       layer = static_cast<const LayeredDevice*>(layer->backing())) {
    if (layer == base) return Origin::kBase;
    if (at >= layer->length_bytes()) return Origin::kZero;
    // A sector in which a lower layer ends is of two kinds: it is read.
    if (layer != &top && layer->length_bytes() < at + kSectorBytes) return Origin::kData;
    const Sector state = layer->sector(at / kSectorBytes);
    if (state != Sector::kUnallocated) return state == Sector::kZero ? Origin::kZero : Origin::kData;
  }
  return Origin::kZero;
}

Expected expect(const Case& c) {
  Expected expected;
  const uint64_t length = c.target->length_bytes();
  expected.content.resize(length);
  expected.origin.resize(div_ceil<uint64_t>(length, kSectorBytes), Origin::kZero);
  uint64_t start = 0;
  for (const auto& source : c.sources) {
    const std::vector<std::byte> view = source->view();
    std::ranges::copy(view, expected.content.begin() + static_cast<ptrdiff_t>(start));
    for (uint64_t at = 0; at < view.size(); at += kSectorBytes) {
      const Origin origin = origin_of(*source, c.options.source_base, at);
      const bool padded = at + kSectorBytes > view.size() && start + view.size() < length;
      // A sector that ends with padding cannot be left to the base.
      expected.origin[(start + at) / kSectorBytes] =
          padded && origin == Origin::kBase ? Origin::kData : origin;
    }
    start = align_up<uint64_t>(start + view.size(), kSectorBytes);
  }
  const uint64_t padded = align_up<uint64_t>(start, c.target->limits().request_alignment);
  expected.job_end = c.options.zero_tail ? length : std::min(padded, length);
  return expected;
}

// How often each sector of the target was written as data, and as zeros.
struct Touched {
  std::vector<int> data;
  std::vector<int> zero;
};

Touched touched_by(const LayeredDevice& target) {
  Touched touched{std::vector<int>(target.sectors()), std::vector<int>(target.sectors())};
  for (const LayeredDevice::Request& write : target.writes())
    for (uint64_t at = write.offset; at < write.offset + write.length; at += kSectorBytes)
      ++(write.zero ? touched.zero : touched.data)[at / kSectorBytes];
  return touched;
}

class ModelCheck {
 public:
  ModelCheck(const Case& c, const ConvertStats& stats, std::vector<std::byte> before)
      : case_(c),
        stats_(stats),
        before_(std::move(before)),
        expected_(expect(c)),
        touched_(touched_by(*c.target)) {}

  void check() {
    check_content();
    for (uint64_t i = 0; i < case_.target->sectors(); ++i) check_sector(i);
    check_stats();
    check_compression();
    if (!case_.options.out_of_order) check_order();
  }

 private:
  // Where nothing was written the target shows what it showed before: left to the base, or behind the end.
  void check_content() {
    const std::vector<std::byte> after = case_.target->view();
    for (uint64_t at = 0; at < after.size(); ++at) {
      const uint64_t i = at / kSectorBytes;
      const bool untouched = touched_.data[i] + touched_.zero[i] == 0;
      const bool left = at >= expected_.job_end || (expected_.origin[i] == Origin::kBase && untouched);
      ASSERT_EQ(after[at], left ? before_[at] : expected_.content[at]) << "at offset " << at;
    }
  }

  void check_sector(uint64_t i) {
    const uint64_t at = i * kSectorBytes;
    SCOPED_TRACE("offset " + std::to_string(at));
    ASSERT_LE(touched_.data[i] + touched_.zero[i], 1);
    if (at >= expected_.job_end) return;
    if (touched_.data[i] > 0) {
      const uint64_t base_grain =
          case_.options.compressed ? case_.grain : case_.target->limits().request_alignment;
      if (whole(at, base_grain, Origin::kBase)) FAIL() << "copied from the base";
      if (case_.options.sparse_bytes != 0 && case_.target->zeroes_cheaply) check_worth_writing(at);
    } else if (expected_.origin[i] != Origin::kBase) {
      check_may_stay_away(at);
    }
  }

  // No whole grain of zeros from the map is written as data, and none of zeros read where blocks are grains.
  void check_worth_writing(uint64_t at) {
    const uint64_t block = sparse_block();
    ASSERT_FALSE(block == case_.grain && decided(at, block) && zeros(at, block)) << "zeros written as data";
    ASSERT_FALSE(block != case_.grain && whole(at, case_.grain, Origin::kZero)) << "a hole written as data";
    ASSERT_FALSE(whole(at, block, Origin::kData) && zeros(at, block)) << "zeros read and written as data";
  }

  // Not written as data: a hole, or a block of zeros, of which holes and the base may cut off a part.
  void check_may_stay_away(uint64_t at) {
    ASSERT_NE(case_.options.sparse_bytes, 0u) << "a byte not written";
    if (whole(at, case_.grain, Origin::kZero)) return;
    const uint64_t block = sparse_block();
    const uint64_t block_start = at / block * block;
    const uint64_t block_end = std::min(block_start + block, expected_.job_end);
    uint64_t start = at;
    while (start > block_start && origin(start - 1) == Origin::kData) --start;
    uint64_t end = at;
    while (end < block_end && origin(end) == Origin::kData) ++end;
    for (uint64_t i = start; i < end; ++i)
      ASSERT_EQ(expected_.content[i], std::byte{0}) << "zeros too short to be left out";
    ASSERT_TRUE(zeros(at, case_.grain)) << "part of a grain left out";
  }

  void check_stats() const {
    uint64_t data = 0;
    uint64_t zero = 0;
    for (const LayeredDevice::Request& write : case_.target->writes())
      (write.zero ? zero : data) += write.length;
    EXPECT_EQ(stats_.bytes_written + stats_.bytes_zeroed + stats_.bytes_skipped, expected_.job_end);
    EXPECT_EQ(stats_.bytes_written + stats_.bytes_zeroed, data + zero);
    if (case_.target->zeroes_cheaply) EXPECT_EQ(stats_.bytes_zeroed, zero);
    if (case_.options.target_reads_zero && !case_.options.target_has_backing)
      EXPECT_EQ(stats_.bytes_zeroed, 0u);
  }

  // Whole units go compressed; what ends within one does if the disk ends there.
  void check_compression() const {
    if (!case_.target->zeroes_cheaply) return;  // it writes zeros as bytes by itself, and they look the same
    for (const LayeredDevice::Request& write : case_.target->writes()) {
      const uint64_t end = write.offset + write.length;
      const bool whole = end % case_.grain == 0 || end == case_.target->length_bytes();
      EXPECT_EQ(write.compressed, case_.options.compressed && !write.zero && whole)
          << "offset " << write.offset << " length " << write.length;
    }
  }

  // Begun in rising order, where no run takes more than one request: a second one comes after the first.
  void check_order() const {
    const bool in_parts = case_.options.compressed || case_.target->limits().max_write_bytes < kMiB;
    if (in_parts || !case_.target->zeroes_cheaply) return;
    EXPECT_TRUE(std::ranges::is_sorted(case_.target->writes(), {}, &LayeredDevice::Request::offset));
  }

  uint64_t sparse_block() const {
    if (case_.options.compressed) return case_.grain;
    return align_up(std::max(case_.options.sparse_bytes, case_.grain), case_.grain);
  }

  Origin origin(uint64_t at) const { return expected_.origin[at / kSectorBytes]; }

  // The aligned block around `at`, cut at the end of the job.
  template <typename Test>
  bool all_of_block(uint64_t at, uint64_t block, Test test) const {
    const uint64_t start = at / block * block;
    const uint64_t end = std::min(start + block, expected_.job_end);
    for (uint64_t i = start; i < end; ++i)
      if (!test(i)) return false;
    return true;
  }
  bool whole(uint64_t at, uint64_t block, Origin wanted) const {
    return all_of_block(at, block, [&](uint64_t i) { return origin(i) == wanted; });
  }
  bool decided(uint64_t at, uint64_t block) const {
    return all_of_block(at, block, [&](uint64_t i) { return origin(i) != Origin::kBase; });
  }
  bool zeros(uint64_t at, uint64_t block) const {
    return all_of_block(at, block, [&](uint64_t i) { return expected_.content[i] == std::byte{0}; });
  }

  const Case& case_;
  const ConvertStats stats_;
  const std::vector<std::byte> before_;
  const Expected expected_;
  const Touched touched_;
};

TEST(ConvertModel, EverySectorIsWhereItBelongs) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 60; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    Case c(seed);
    const std::vector<std::byte> before = c.target->view();
    io::SimulatedReactor reactor(seed);
    const ConvertStats stats =
        reactor.run_until_done(convert_on({&reactor}, c.devices(), *c.checked_target, c.options));
    ModelCheck(c, stats, before).check();
    if (testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace cofre::job
