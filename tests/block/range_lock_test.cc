// RangeLock against a brute-force model: a list of requests in order of arrival.
#include "block/range_lock.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/test_seed.h"
#include "io/simulated_reactor.h"

namespace cofre::block {
namespace {

struct Request {
  uint64_t begin;
  uint64_t end;
  bool exclusive;
  uint64_t steps;  // yields while held
  bool arrived = false;
  bool granted = false;
  bool released = false;
};

bool conflict(const Request& a, const Request& b) {
  return a.begin < b.end && b.begin < a.end && (a.exclusive || b.exclusive);
}

// Requests in order of arrival; a request may be granted only when no earlier one that conflicts is
// unreleased.
class Model {
 public:
  void arrive(Request& request) {
    request.arrived = true;
    order_.push_back(&request);
  }
  bool may_hold(const Request& request) const {
    for (const Request* earlier : order_) {
      if (earlier == &request) return true;
      if (!earlier->released && conflict(*earlier, request)) return false;
    }
    return false;
  }
  // Whether someone waits whom nothing stands against.
  const Request* forgotten() const {
    for (const Request* request : order_)
      if (!request->granted && may_hold(*request)) return request;
    return nullptr;
  }

 private:
  std::vector<Request*> order_;
};

io::task<void> hold(RangeLock& lock, Model& model, Request& request) {
  for (uint64_t i = request.steps % 5; i > 0; --i) co_await io::yield();
  RangeLock::Guard guard;
  model.arrive(request);
  co_await lock.acquire(guard, request.begin, request.end, request.exclusive);
  EXPECT_TRUE(model.may_hold(request));
  request.granted = true;
  for (uint64_t i = 0; i < request.steps; ++i) co_await io::yield();
  EXPECT_TRUE(model.may_hold(request));
  request.released = true;
  guard.release();
  guard.release();  // nothing left to do
}

io::task<void> hold_all(RangeLock& lock, Model& model, std::vector<Request>& requests) {
  io::TaskGroup group;
  for (Request& request : requests) group.spawn(hold(lock, model, request));
  co_await group.join();
}

TEST(RangeLock, AgreesWithTheModel) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 300; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::vector<Request> requests;
    const uint64_t space = 1 + random() % 200;
    for (uint64_t i = 0, count = random() % 60; i < count; ++i) {
      const uint64_t begin = random() % space;
      requests.push_back({begin, begin + random() % 20, random() % 2 == 0, random() % 10});
    }
    RangeLock lock;
    Model model;
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(hold_all(lock, model, requests));  // a lost wakeup is a deadlock, which throws
    EXPECT_EQ(model.forgotten(), nullptr);
    for (const Request& request : requests) EXPECT_TRUE(request.released);
    RangeLock::Guard everything;
    EXPECT_TRUE(lock.try_acquire(everything, 0, UINT64_MAX, true));
  }
}

io::task<void> wait_for(RangeLock& lock, uint64_t begin, uint64_t end, bool exclusive, bool& granted) {
  RangeLock::Guard guard;
  co_await lock.acquire(guard, begin, end, exclusive);
  granted = true;
}
io::task<void> wait_behind(RangeLock& lock, bool& writer, bool& reader) {
  RangeLock::Guard held;
  EXPECT_TRUE(lock.try_acquire(held, 0, 10, false));
  io::TaskGroup group;
  group.spawn(wait_for(lock, 5, 15, true, writer));
  group.spawn(wait_for(lock, 12, 20, false, reader));  // would fit now, but the writer came first
  co_await io::yield();
  EXPECT_FALSE(writer);
  EXPECT_FALSE(reader);
  RangeLock::Guard refused;
  EXPECT_FALSE(lock.try_acquire(refused, 14, 15, false));
  EXPECT_TRUE(lock.try_acquire(refused, 20, 30, true));
  refused.release();
  held.release();
  co_await group.join();
}

TEST(RangeLock, IsFirstComeFirstServed) {
  RangeLock lock;
  bool writer = false;
  bool reader = false;
  io::SimulatedReactor reactor(1);
  reactor.run_until_done(wait_behind(lock, writer, reader));
  EXPECT_TRUE(writer);
  EXPECT_TRUE(reader);
}

TEST(RangeLock, SharedRangesMayOverlap) {
  RangeLock lock;
  RangeLock::Guard a, b, c;
  EXPECT_TRUE(lock.try_acquire(a, 0, 100, false));
  EXPECT_TRUE(lock.try_acquire(b, 50, 150, false));
  EXPECT_FALSE(lock.try_acquire(c, 99, 101, true));
  EXPECT_TRUE(lock.try_acquire(c, 150, 200, true));  // ends are not part of a range
}

}  // namespace
}  // namespace cofre::block
