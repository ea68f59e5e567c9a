// What is counted of requests, and waiting for changes in flight.
#include "export/activity.h"

#include <gtest/gtest.h>

#include "io/sync.h"

namespace cofre::exporting {
namespace {

TEST(LatencyBucket, HoldsWhatTookAtMostItsPowerOfTwo) {
  EXPECT_EQ(latency_bucket(0), 0u);
  EXPECT_EQ(latency_bucket(1000), 0u);
  EXPECT_EQ(latency_bucket(1001), 1u);
  EXPECT_EQ(latency_bucket(2000), 1u);
  EXPECT_EQ(latency_bucket(2001), 2u);
  EXPECT_EQ(latency_bucket(4000), 2u);
  EXPECT_EQ(latency_bucket((uint64_t{1} << 23) * 1000), 23u);
  EXPECT_EQ(latency_bucket((uint64_t{1} << 23) * 1000 + 1), kLatencyBuckets - 1);
  EXPECT_EQ(latency_bucket(UINT64_MAX), kLatencyBuckets - 1);
}

TEST(Activity, AddsUpLanes) {
  Activity activity(2);
  for (unsigned lane = 0; lane < 2; ++lane) {
    const auto begun = activity.lane(lane).begin(Op::kWrite);
    activity.lane(lane).end(begun, 512, /*failed=*/lane == 1);
  }
  const OpTotals totals = activity.totals(Op::kWrite);
  EXPECT_EQ(totals.requests, 2u);
  EXPECT_EQ(totals.errors, 1u);
  EXPECT_EQ(totals.bytes, 512u);
  EXPECT_EQ(activity.totals(Op::kRead).requests, 0u);
}

io::task<void> end_later(io::Lanes& lanes, Activity& activity, LaneActivity::Begun begun, bool& ended) {
  co_await io::enter(lanes.lane(1));
  co_await io::sleep_ns(20'000'000);
  activity.lane(1).end(begun, 0, false);
  co_await io::enter(lanes.home());
  ended = true;
}

io::task<LaneActivity::Begun> begin_on(io::Lanes& lanes, Activity& activity, Op op) {
  co_await io::enter(lanes.lane(1));
  const LaneActivity::Begun begun = activity.lane(1).begin(op);
  co_await io::enter(lanes.home());
  co_return begun;
}

// A write that began before is waited for. One that began meanwhile, and a read, are not: both are still
// there.
io::task<void> wait_beside_others(io::Lanes& lanes) {
  Activity activity(2);
  for (int round = 0; round < 4; ++round) {
    const auto read = co_await begin_on(lanes, activity, Op::kRead);
    const auto write = co_await begin_on(lanes, activity, Op::kWrite);
    bool ended = false;
    io::TaskGroup group;
    group.spawn(end_later(lanes, activity, write, ended));
    co_await activity.wait_for_changes(lanes);
    EXPECT_EQ(activity.totals(Op::kWrite).requests, static_cast<uint64_t>(2 * round + 1));
    const auto later = co_await begin_on(lanes, activity, Op::kWrite);
    co_await group.join();
    EXPECT_TRUE(ended);
    co_await end_later(lanes, activity, later, ended);
    co_await end_later(lanes, activity, read, ended);
  }
}

TEST(Activity, WaitsForChangesThatBeganBefore) {
  io::Lanes lanes(2);
  lanes.run(wait_beside_others(lanes));
}

}  // namespace
}  // namespace cofre::exporting
