// Mutex, Semaphore and TaskGroup within one lane.
#include "io/sync.h"

#include <random>
#include <vector>

#include "base/test_seed.h"
#include "io/backend_fixture.h"

namespace cofre::io {
namespace {

using Sync = OnBackend;
INSTANTIATE_TEST_SUITE_P(Io, Sync, testing::ValuesIn(backend_names()),
                         [](const auto& param) { return param.param; });

task<void> hold_mutex(Mutex& mutex, int name, bool& held, std::vector<int>& order) {
  auto guard = co_await mutex.lock();
  EXPECT_FALSE(held);
  held = true;
  order.push_back(name);
  co_await yield();
  co_await sleep_ns(1);
  held = false;
}
task<void> contend(std::vector<int>& order, int count) {
  Mutex mutex;
  bool held = false;
  TaskGroup group;
  for (int i = 0; i < count; ++i) group.spawn(hold_mutex(mutex, i, held, order));
  co_await group.join();
  EXPECT_FALSE(mutex.locked());
}

TEST_P(Sync, MutexIsExclusiveAndFifo) {
  std::vector<int> order;
  reactor_.run_until_done(contend(order, 50));
  ASSERT_EQ(order.size(), 50u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

task<void> unlock_early(Mutex& mutex) {
  auto guard = co_await mutex.lock();
  guard.unlock();
  guard.unlock();  // nothing left to do
  EXPECT_FALSE(mutex.locked());
  auto moved = std::move(guard);
  auto again = co_await mutex.lock();
  EXPECT_TRUE(mutex.locked());
}

TEST_P(Sync, MutexUnlocksOnce) {
  Mutex mutex;
  reactor_.run_until_done(unlock_early(mutex));
  EXPECT_FALSE(mutex.locked());
}

struct Usage {
  uint64_t used = 0;
  std::vector<uint64_t> order;
};
task<void> use_units(Semaphore& semaphore, uint64_t units, uint64_t capacity, uint64_t yields, Usage& usage) {
  co_await semaphore.acquire(units);
  usage.order.push_back(units);
  usage.used += std::min(units, capacity);
  EXPECT_LE(usage.used, capacity);
  for (uint64_t i = 0; i < yields; ++i) co_await yield();
  usage.used -= std::min(units, capacity);
  semaphore.release(units);
}
task<void> use_in_order(std::vector<uint64_t> units, uint64_t capacity, Usage& usage) {
  Semaphore semaphore(capacity);
  TaskGroup group;
  for (size_t i = 0; i < units.size(); ++i)
    group.spawn(use_units(semaphore, units[i], capacity, 1 + i % 3, usage));
  co_await group.join();
  EXPECT_EQ(usage.used, 0u);
  co_await semaphore.acquire(capacity);  // everything came back
  semaphore.release(capacity);
}

TEST_P(Sync, SemaphoreServesInOrderHoweverLarge) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<uint64_t> units;
  for (int i = 0; i < 200; ++i) units.push_back(random() % 12);  // some larger than all there is
  Usage usage;
  reactor_.run_until_done(use_in_order(units, 8, usage));
  EXPECT_EQ(usage.order, units);
}

task<void> take_small_ones(Semaphore& semaphore, const bool& large_served, int& rounds) {
  while (!large_served) {
    co_await semaphore.acquire(1);
    ++rounds;
    co_await yield();
    semaphore.release(1);
  }
}
task<void> take_large_one(Semaphore& semaphore, bool& served) {
  co_await yield();
  co_await semaphore.acquire(4);
  served = true;
  semaphore.release(4);
}
task<void> large_among_small(int& rounds) {
  Semaphore semaphore(4);
  bool served = false;
  TaskGroup group;
  for (int i = 0; i < 5; ++i) group.spawn(take_small_ones(semaphore, served, rounds));
  group.spawn(take_large_one(semaphore, served));
  co_await group.join();
}

TEST_P(Sync, SmallOnesDoNotStarveALargeOne) {
  int rounds = 0;
  reactor_.run_until_done(large_among_small(rounds));
  EXPECT_GT(rounds, 0);
}

task<void> count_up(int& count, int yields) {
  for (int i = 0; i < yields; ++i) co_await yield();
  ++count;
}
task<void> fail_after(int yields, std::string message) {
  for (int i = 0; i < yields; ++i) co_await yield();
  throw std::runtime_error(message);
}

task<void> join_twice(int& count) {
  TaskGroup group;
  co_await group.join();  // of nothing
  for (int i = 0; i < 10; ++i) group.spawn(count_up(count, i % 3));
  co_await group.join();
  EXPECT_EQ(count, 10);
  for (int i = 0; i < 10; ++i) group.spawn(count_up(count, 0));
  co_await group.join();
  EXPECT_EQ(count, 20);
}

TEST_P(Sync, GroupsMayBeUsedAgain) {
  int count = 0;
  reactor_.run_until_done(join_twice(count));
  EXPECT_EQ(count, 20);
}

task<void> join_failures(int& count) {
  TaskGroup group;
  EXPECT_FALSE(group.failed());
  group.spawn(count_up(count, 20));
  group.spawn(fail_after(0, "first"));
  group.spawn(fail_after(200, "second"));
  EXPECT_TRUE(group.failed());
  std::string caught;
  try {
    co_await group.join();
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "first");
  EXPECT_EQ(count, 1);  // join waited for the others all the same
  EXPECT_FALSE(group.failed());
  group.spawn(count_up(count, 1));
  co_await group.join();
}

TEST_P(Sync, JoinThrowsTheFirstFailureAfterAllAreDone) {
  int count = 0;
  reactor_.run_until_done(join_failures(count));
  EXPECT_EQ(count, 2);
}

task<void> never_joined() {
  TaskGroup group;
  group.spawn(fail_after(5, "nobody asks"));
  co_return;
}

TEST(SyncDeathTest, AGroupWithRunningTasksMustNotDie) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        SimulatedReactor reactor(1);
        reactor.run_until_done(never_joined());
      },
      "");
}

}  // namespace
}  // namespace cofre::io
