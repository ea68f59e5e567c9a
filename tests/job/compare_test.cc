#include "job/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/test_seed.h"
#include "io/simulated_reactor.h"
#include "job/layered_device.h"

namespace cofre::job {
namespace {

using test::LayeredDevice;
using test::Sector;

CompareResult run(block::Device& a, block::Device& b, const CompareOptions& options, uint64_t seed = 1) {
  io::SimulatedReactor reactor(seed);
  return reactor.run_until_done(compare_on({&reactor}, a, b, options));
}

// What a map says of the sector at `at`, all layers together.
Sector state_of(const LayeredDevice& top, uint64_t at) {
  for (const LayeredDevice* layer = &top; layer != nullptr;
       layer = static_cast<const LayeredDevice*>(layer->backing())) {
    if (at >= layer->length_bytes()) return layer == &top ? Sector::kUnallocated : Sector::kZero;
    const Sector state = layer->sector(at / kSectorBytes);
    if (state != Sector::kUnallocated) return state;
  }
  return Sector::kUnallocated;
}

CompareResult model(const LayeredDevice& a, const LayeredDevice& b, bool strict) {
  const uint64_t padded_a = align_up<uint64_t>(a.length_bytes(), kSectorBytes);
  const uint64_t padded_b = align_up<uint64_t>(b.length_bytes(), kSectorBytes);
  const uint64_t common = std::min(padded_a, padded_b);
  if (strict && padded_a != padded_b) return {CompareOutcome::kSizeMismatch, common, false};
  std::vector<std::byte> view_a = a.view();
  std::vector<std::byte> view_b = b.view();
  const uint64_t end = std::max(padded_a, padded_b);
  view_a.resize(end);
  view_b.resize(end);
  CompareResult result;
  for (uint64_t at = 0; at < end; at += kSectorBytes) {
    if (strict && state_of(a, at) != state_of(b, at)) {
      result = {CompareOutcome::kAllocationMismatch, at, false};
      break;
    }
    if (!std::equal(view_a.begin() + static_cast<ptrdiff_t>(at),
                    view_a.begin() + static_cast<ptrdiff_t>(at + kSectorBytes),
                    view_b.begin() + static_cast<ptrdiff_t>(at))) {
      result = {CompareOutcome::kContentMismatch, at, false};
      break;
    }
  }
  result.sizes_differ =
      padded_a != padded_b && (result.outcome == CompareOutcome::kIdentical || result.offset >= common);
  return result;
}

// Changes little or nothing of `device`.
void disturb(LayeredDevice& device, std::mt19937_64& random) {
  for (uint64_t changes = random() % 3; changes > 0 && device.sectors() > 1; --changes) {
    const uint64_t at = random() % (device.sectors() - 1) * kSectorBytes;
    const Sector states[] = {Sector::kData, Sector::kZero, Sector::kUnallocated};
    device.set(at, kSectorBytes, states[random() % 3], static_cast<std::byte>(random() % 3));
  }
}

TEST(CompareModel, AgreesOnEverySector) {
  const uint64_t first_seed = test_seed();
  int seen[4] = {};
  for (uint64_t seed = first_seed; seed < first_seed + 120; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const uint64_t length = align_up<uint64_t>(1 + random() % (3 * kMiB), kSectorBytes);
    const bool longer = random() % 3 == 0;
    LayeredDevice backing_a(length);
    LayeredDevice backing_b(length);
    LayeredDevice a(length, "a", &backing_a);
    LayeredDevice b(length + (longer ? random() % 100000 / kSectorBytes * kSectorBytes : 0), "b", &backing_b);
    const uint64_t longest_run = random() % 2 == 0 ? 30 : 1000;
    for (const auto& [first, second] : {std::pair{&backing_a, &backing_b}, std::pair{&a, &b}}) {
      const uint64_t content_seed = random();
      for (LayeredDevice* device : {first, second}) {
        std::mt19937_64 same(content_seed);
        device->randomize(same, longest_run, true);
      }
    }
    if (longer && random() % 2 == 0) b.set(length, b.length_bytes() - length, Sector::kZero);
    disturb(a, random);
    const bool strict = random() % 2 == 0;
    const CompareResult expected = model(a, b, strict);
    const CompareResult got =
        run(a, b, {.strict = strict, .parallel = static_cast<unsigned>(random() % 5)}, seed);
    ASSERT_EQ(got.outcome, expected.outcome);
    ASSERT_EQ(got.offset, expected.offset);
    ASSERT_EQ(got.sizes_differ, expected.sizes_differ);
    ++seen[static_cast<int>(got.outcome)];
  }
  for (const int count : seen) EXPECT_GT(count, 0) << "an outcome never came up";
}

TEST(Compare, HolesOfBothAreNotRead) {
  LayeredDevice a(64 * kMiB);
  LayeredDevice b(64 * kMiB);
  a.set(kMiB, kMiB, Sector::kData, std::byte{1});
  b.set(kMiB, kMiB, Sector::kData, std::byte{1});
  EXPECT_EQ(run(a, b, {}).outcome, CompareOutcome::kIdentical);
  EXPECT_EQ(a.bytes_read(), kMiB);
  EXPECT_EQ(b.bytes_read(), kMiB);
}

TEST(Compare, OddLengthsArePaddedWithZeros) {
  LayeredDevice a(1000);
  LayeredDevice b(1024);
  a.set(0, 1000, Sector::kData, std::byte{7});
  b.set(0, 1000, Sector::kData, std::byte{7});
  const CompareResult result = run(a, b, {});
  EXPECT_EQ(result.outcome, CompareOutcome::kIdentical);
  EXPECT_FALSE(result.sizes_differ);
  b.set(0, 1024, Sector::kData, std::byte{7});
  EXPECT_EQ(run(a, b, {}).outcome, CompareOutcome::kContentMismatch);
  EXPECT_EQ(run(a, b, {}).offset, 512u);
}

struct Faulty {
  LayeredDevice a{8 * kMiB, "a"};
  LayeredDevice b{8 * kMiB, "b"};
  Faulty() {
    a.set(0, 8 * kMiB, Sector::kData, std::byte{1});
    b.set(0, 8 * kMiB, Sector::kData, std::byte{1});
  }
};

TEST(Compare, AMismatchBeforeAFaultWins) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Faulty devices;
    devices.b.set(2 * kMiB + 4096, 512, Sector::kData, std::byte{2});
    devices.a.fails = [](LayeredDevice::Kind kind, uint64_t offset) {
      return kind == LayeredDevice::Kind::kRead && offset >= 3 * kMiB;
    };
    const CompareResult result = run(devices.a, devices.b, {}, seed);
    EXPECT_EQ(result.outcome, CompareOutcome::kContentMismatch);
    EXPECT_EQ(result.offset, 2 * kMiB + 4096);
  }
}

TEST(Compare, AFaultBeforeAMismatchIsThrown) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Faulty devices;
    devices.b.set(5 * kMiB, 512, Sector::kData, std::byte{2});
    devices.a.fails = [](LayeredDevice::Kind kind, uint64_t offset) {
      return kind == LayeredDevice::Kind::kRead && offset == 3 * kMiB;
    };
    try {
      run(devices.a, devices.b, {}, seed);
      ADD_FAILURE() << "no error";
    } catch (const MapFailed&) {
      ADD_FAILURE() << "reading failed, not mapping";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIo);
    }
  }
}

TEST(Compare, AFailedMapIsToldApart) {
  Faulty devices;
  devices.b.set(kMiB, 512, Sector::kZero);
  devices.b.fails = [](LayeredDevice::Kind kind, uint64_t offset) {
    return kind == LayeredDevice::Kind::kMap && offset > 0;
  };
  EXPECT_THROW(run(devices.a, devices.b, {}), MapFailed);
}

TEST(Compare, Cancelled) {
  Faulty devices;
  int patience = 3;
  CompareOptions options;
  options.progress.cancelled = [&] { return patience-- == 0; };
  try {
    run(devices.a, devices.b, options);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCancelled);
  }
}

}  // namespace
}  // namespace cofre::job
