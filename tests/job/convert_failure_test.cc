// Every single request of a conversion fails in turn, and it is cancelled at every single moment.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "base/test_seed.h"
#include "block/checked.h"
#include "io/simulated_reactor.h"
#include "job/convert.h"
#include "job/layered_device.h"

namespace cofre::job {
namespace {

using test::LayeredDevice;
using test::Sector;

constexpr uint64_t kLength = 12 * kMiB;
constexpr unsigned kWorkers = 4;

struct Setting {
  LayeredDevice source{kLength, "source"};
  LayeredDevice* target = nullptr;
  std::unique_ptr<block::Device> checked_target;
  ConvertOptions options;

  explicit Setting(bool out_of_order) {
    source.set(0, 6 * kMiB, Sector::kData, std::byte{1});
    source.set(8 * kMiB, 3 * kMiB, Sector::kData, std::byte{0});
    source.set(11 * kMiB, kMiB, Sector::kData, std::byte{2});
    auto device = std::make_unique<LayeredDevice>(kLength, "target");
    target = device.get();
    checked_target = block::make_checked(std::move(device));
    options.parallel = kWorkers;
    options.out_of_order = out_of_order;
  }

  void run(uint64_t seed) {
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(convert_on({&reactor}, {&source}, *checked_target, options));
  }
};

// Lets `good` requests through and fails the next one; true if one failed.
bool run_with_fault(uint64_t seed, bool out_of_order, uint64_t good) {
  Setting setting(out_of_order);
  uint64_t requests = 0;
  uint64_t later_writes = 0;
  bool failed = false;
  const auto fails = [&](LayeredDevice::Kind kind, uint64_t) {
    if (failed && (kind == LayeredDevice::Kind::kWrite || kind == LayeredDevice::Kind::kZero)) ++later_writes;
    const bool now = requests++ == good;
    failed |= now;
    return now;
  };
  setting.source.fails = fails;
  setting.target->fails = fails;
  try {
    setting.run(seed);
    EXPECT_FALSE(failed) << "the error got lost";
    EXPECT_EQ(setting.target->view(), setting.source.view());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo) << error.what();
    EXPECT_NE(std::string(error.what()).find("injected fault at offset"), std::string::npos) << error.what();
    EXPECT_TRUE(failed);
    EXPECT_LE(later_writes, 3 * kWorkers) << "the others went on";  // a chunk is at most three requests here
  }
  return failed;
}

TEST(ConvertFailure, EveryRequestInTurn) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  for (const bool out_of_order : {true, false}) {
    uint64_t good = 0;
    while (run_with_fault(seed + good, out_of_order, good)) ++good;
    EXPECT_GT(good, 20u);
    if (testing::Test::HasFailure()) break;
  }
}

TEST(ConvertFailure, CancelledAtEveryMoment) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  for (const bool out_of_order : {true, false}) {
    uint64_t questions_asked = 0;
    bool cancelled = true;
    for (uint64_t patience = 0; cancelled; ++patience) {
      Setting setting(out_of_order);
      questions_asked = 0;
      setting.options.progress.cancelled = [&] { return questions_asked++ == patience; };
      try {
        setting.run(seed + patience);
        cancelled = false;
        EXPECT_EQ(setting.target->view(), setting.source.view());
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kCancelled) << error.what();
      }
    }
    EXPECT_GT(questions_asked, 10u) << "asked once a chunk";
  }
}

TEST(ConvertFailure, ATargetThatCannotZeroCheaplyGetsWholeChunks) {
  Setting setting(/*out_of_order=*/true);
  setting.source.set(0, kLength, Sector::kData, std::byte{0});
  for (uint64_t at = 0; at < kLength; at += 64 * kKiB)
    setting.source.set(at, 4096, Sector::kData, std::byte{3});
  setting.target->set(0, kLength, Sector::kData, std::byte{0xee});
  setting.target->zeroes_cheaply = false;
  setting.run(1);
  EXPECT_EQ(setting.target->view(), setting.source.view());
  EXPECT_LE(setting.target->writes().size(), 12u + kWorkers)
      << "one a chunk, but for those that had to find out";
}

}  // namespace
}  // namespace cofre::job
