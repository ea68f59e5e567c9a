// The simulated reactor: one seed, one order; short transfers; deadlocks are found.
#include "io/simulated_reactor.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "base/test_seed.h"
#include "io/scratch_fd.h"
#include "io/sync.h"

namespace cofre::io {
namespace {

task<void> note(int name, std::vector<int>& order) {
  co_await yield();
  order.push_back(name);
}
task<void> note_all(std::vector<int>& order) {
  TaskGroup group;
  for (int i = 0; i < 20; ++i) group.spawn(note(i, order));
  co_await group.join();
}
std::vector<int> order_with_seed(uint64_t seed) {
  std::vector<int> order;
  SimulatedReactor reactor(seed);
  reactor.run_until_done(note_all(order));
  return order;
}

TEST(Simulated, TheSeedDecidesTheOrder) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  EXPECT_EQ(order_with_seed(seed), order_with_seed(seed));
  EXPECT_NE(order_with_seed(1), order_with_seed(2));
}

task<void> write_whole(int fd, ConstBytes bytes, int& pieces) {
  uint64_t offset = 0;
  while (offset < bytes.size()) {
    const int64_t wrote = co_await async_write(fd, bytes.subspan(offset), offset);
    ++pieces;
    EXPECT_GT(wrote, 0);
    if (wrote <= 0) co_return;
    offset += static_cast<uint64_t>(wrote);
  }
}

TEST(Simulated, ShortensTransfersButNeverToNothing) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchFd fd;
  const auto bytes = random_bytes(random, 1 << 20);
  SimulatedReactor reactor(seed, /*short_transfers=*/true);
  int pieces = 0;
  reactor.run_until_done(write_whole(fd, bytes, pieces));
  EXPECT_GT(pieces, 1);
  std::vector<std::byte> got(bytes.size());
  ASSERT_EQ(pread(fd, got.data(), got.size(), 0), static_cast<ssize_t>(got.size()));
  EXPECT_EQ(got, bytes);
}

task<void> wait_in(WaitQueue& queue) {
  co_await queue.wait();
}

TEST(Simulated, FindsDeadlocks) {
  static WaitQueue queue;  // keeps what waits for good reachable, so that it is no leak
  SimulatedReactor reactor(1);
  EXPECT_THROW(reactor.run_until_done(wait_in(queue)), Error);
  EXPECT_EQ(Reactor::current(), nullptr);
}

}  // namespace
}  // namespace cofre::io
