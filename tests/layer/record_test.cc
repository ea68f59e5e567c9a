// Replays of a recorded run: what was promised is there at every moment, and the rest varies.
#include "layer/record.h"

#include <gtest/gtest.h>

#include <set>

#include "base/test_seed.h"
#include "io/simulated_reactor.h"
#include "io/sync.h"

namespace cofre::layer {
namespace {

class Record : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  void write(uint64_t offset, uint64_t length, uint8_t value, block::WriteFlags flags = {}) {
    const std::vector<std::byte> bytes(length, std::byte{value});
    run(device_.write(offset, bytes, flags));
  }
  std::set<std::vector<std::byte>> states_at(uint64_t moment) {
    std::set<std::vector<std::byte>> states;
    for (int i = 0; i < 300; ++i) states.insert(device_.replay(moment, random_)->content());
    return states;
  }

  uint64_t seed_ = test_seed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, "COFRE_TEST_SEED=" + std::to_string(seed_)};
  std::mt19937_64 random_{seed_};
  io::SimulatedReactor reactor_{seed_};
  RecordDevice device_{std::make_unique<storage::MemoryDevice>(1024), std::vector<std::byte>(1024)};
};

TEST_F(Record, BeforeTheFirstMomentNothingHasHappened) {
  write(0, 512, 1);
  EXPECT_EQ(states_at(0), (std::set{std::vector<std::byte>(1024)}));
}

TEST_F(Record, AWriteMayBeThereFromItsStartAndIsAfterAFlush) {
  write(0, 1024, 1);
  run(device_.flush());
  ASSERT_EQ(device_.moments(), 4u);
  EXPECT_EQ(states_at(1).size(), 4u);  // in flight: each of two sectors old or new
  EXPECT_EQ(states_at(2).size(), 4u);  // completed, not flushed
  EXPECT_EQ(states_at(3).size(), 4u);  // the flush is in flight
  EXPECT_EQ(states_at(4), (std::set{std::vector<std::byte>(1024, std::byte{1})}));
  EXPECT_EQ(device_.flushes_ended_at(3), 0u);
  EXPECT_EQ(device_.flushes_ended_at(4), 1u);
}

TEST_F(Record, FuaIsDurableByItself) {
  write(512, 512, 2, {.fua = true});
  write(0, 512, 1);
  const auto states = states_at(device_.moments());
  EXPECT_EQ(states.size(), 2u);
  for (const auto& state : states) EXPECT_EQ(state[512], std::byte{2});
}

TEST_F(Record, ZeroesDiscardsAndResizesAreReplayed) {
  write(0, 1024, 1);
  run(device_.write_zeroes(0, 512));
  run(device_.discard(512, 10'000));
  run(device_.resize(3000));
  run(device_.close());
  EXPECT_EQ(states_at(device_.moments()), (std::set{std::vector<std::byte>(3000)}));
}

io::task<void> write_and_flush(RecordDevice& device, ConstBytes first, ConstBytes second) {
  io::TaskGroup group;
  group.spawn(device.write(0, first));
  group.spawn(device.flush());
  group.spawn(device.write(512, second));
  co_await group.join();
}

TEST_F(Record, AFlushPromisesNothingThatEndedAfterItsStart) {
  const std::vector<std::byte> first(512, std::byte{1});
  const std::vector<std::byte> second(512, std::byte{2});
  run(write_and_flush(device_, first, second));
  EXPECT_EQ(states_at(device_.moments()).size(), 4u);
  run(device_.flush());
  EXPECT_EQ(states_at(device_.moments()).size(), 1u);
}

}  // namespace
}  // namespace cofre::layer
