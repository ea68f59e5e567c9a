// The memory device, and what it says a power loss leaves.
#include "storage/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "io/simulated_reactor.h"
#include "io/sync.h"

namespace cofre::storage {
namespace {

using testing::Each;

class Memory : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  void fill(uint64_t offset, uint64_t length, uint8_t value, block::WriteFlags flags = {}) {
    const std::vector<std::byte> bytes(length, std::byte{value});
    run(device_.write(offset, bytes, flags));
  }
  // Every state that many power losses give.
  std::set<std::vector<std::byte>> survivors(int losses = 300) {
    std::set<std::vector<std::byte>> states;
    for (int i = 0; i < losses; ++i) states.insert(device_.after_power_loss(random_)->content());
    return states;
  }

  uint64_t seed_ = test_seed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, "COFRE_TEST_SEED=" + std::to_string(seed_)};
  std::mt19937_64 random_{seed_};
  io::SimulatedReactor reactor_{seed_};
  MemoryDevice device_;
};

TEST_F(Memory, HoldsBytesAndGrows) {
  fill(10, 5, 3);
  EXPECT_EQ(device_.length_bytes(), 15u);
  std::vector<std::byte> got(20, std::byte{9});
  run(device_.read(0, got));
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], std::byte{i >= 10 && i < 15 ? uint8_t{3} : uint8_t{0}});
  run(device_.write_zeroes(12, 10));
  EXPECT_EQ(device_.length_bytes(), 22u);
  run(device_.discard(0, 1000));
  EXPECT_EQ(device_.length_bytes(), 22u);
  EXPECT_THAT(device_.content(), Each(std::byte{0}));
  run(device_.resize(5));
  EXPECT_EQ(device_.length_bytes(), 5u);
}

TEST_F(Memory, RefusesWhatDoesNotFit) {
  EXPECT_THROW(run(device_.write_zeroes(0, uint64_t{1} << 60)), Error);
  EXPECT_THROW(fill(UINT64_MAX, 2, 1), Error);
  EXPECT_THROW(run(device_.resize(UINT64_MAX)), Error);
  device_.mutable_limits().read_only = true;
  EXPECT_THROW(fill(0, 1, 1), Error);
  EXPECT_THROW(run(device_.resize(1)), Error);
  EXPECT_EQ(device_.length_bytes(), 0u);
}

TEST_F(Memory, WhatWasFlushedSurvives) {
  fill(0, 2048, 1);
  device_.start_recording();
  fill(0, 1024, 2);
  fill(4096, 512, 3, {.fua = true});
  fill(0, 512, 4);
  run(device_.flush());
  const auto states = survivors();
  ASSERT_EQ(states.size(), 1u);
  EXPECT_EQ(*states.begin(), device_.content());
}

TEST_F(Memory, WhatWasNotFlushedMaySurviveBySectors) {
  fill(0, 1024, 1);
  device_.start_recording();
  fill(0, 1024, 2);
  const auto states = survivors();
  EXPECT_EQ(states.size(), 4u);  // each of two sectors old or new
  for (const auto& state : states) {
    ASSERT_EQ(state.size(), 1024u);
    EXPECT_THAT(std::vector(state.begin(), state.begin() + 512), Each(state[0]));
    EXPECT_THAT(std::vector(state.begin() + 512, state.end()), Each(state[512]));
  }
}

TEST_F(Memory, LaterWritesMayOvertakeEarlierOnes) {
  fill(0, 1024, 1);
  device_.start_recording();
  fill(0, 512, 2);
  fill(512, 512, 3);
  std::set<std::pair<int, int>> seen;
  for (const auto& state : survivors())
    seen.insert({std::to_integer<int>(state[0]), std::to_integer<int>(state[512])});
  EXPECT_TRUE(seen.contains({1, 3}));
  EXPECT_TRUE(seen.contains({2, 1}));
  EXPECT_EQ(seen.size(), 4u);
}

TEST_F(Memory, ResizesAreDurableAfterAFlushAndOnlyThen) {
  fill(0, 1024, 1);
  device_.start_recording();
  run(device_.resize(4096));
  std::set<size_t> sizes;
  for (const auto& state : survivors()) sizes.insert(state.size());
  EXPECT_EQ(sizes, (std::set<size_t>{1024, 4096}));
  run(device_.flush());
  sizes.clear();
  for (const auto& state : survivors()) sizes.insert(state.size());
  EXPECT_EQ(sizes, (std::set<size_t>{4096}));
  run(device_.resize(512));
  run(device_.resize(2048));
  run(device_.flush());
  const auto state = *survivors().begin();
  ASSERT_EQ(state.size(), 2048u);
  EXPECT_THAT(std::vector(state.begin() + 512, state.end()), Each(std::byte{0}));
}

io::task<void> write_in_turn(MemoryDevice& device, ConstBytes bytes, int count) {
  for (int i = 0; i < count; ++i) co_await device.write(static_cast<uint64_t>(i) * 512, bytes);
}
io::task<void> flush_in_turn(MemoryDevice& device, int count) {
  for (int i = 0; i < count; ++i) co_await device.flush();
}
io::task<void> write_beside_flushes(MemoryDevice& device, ConstBytes bytes) {
  io::TaskGroup group;
  for (int i = 0; i < 3; ++i) group.spawn(flush_in_turn(device, 10));
  group.spawn(write_in_turn(device, bytes, 30));
  co_await group.join();
}

TEST_F(Memory, FlushesSideBySideKeepTheOrder) {
  const std::vector<std::byte> bytes(512, std::byte{1});
  device_.start_recording();
  run(write_beside_flushes(device_, bytes));
  run(device_.flush());
  EXPECT_EQ(device_.after_power_loss(random_)->content(), device_.content());
}

}  // namespace
}  // namespace cofre::storage
