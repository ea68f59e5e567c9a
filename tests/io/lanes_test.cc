// Several lanes: threads that hand coroutines to each other.
#include "io/lanes.h"

#include <signal.h>

#include <atomic>
#include <set>
#include <thread>

#include "base/error.h"
#include "io/backend_fixture.h"
#include "io/scratch_fd.h"
#include "io/sync.h"

namespace cofre::io {
namespace {

class OnLanes : public testing::TestWithParam<std::string> {
 protected:
  Backend backend() const { return GetParam() == "threads" ? Backend::kThreads : Backend::kIoUring; }
};
INSTANTIATE_TEST_SUITE_P(Io, OnLanes, testing::ValuesIn(backend_names(/*with_simulated=*/false)),
                         [](const auto& param) { return param.param; });

task<void> visit(Lanes& lanes, unsigned rounds, std::atomic<uint64_t>& visits) {
  for (unsigned i = 0; i < rounds; ++i) {
    Reactor& lane = lanes.lane(i % lanes.count());
    co_await enter(lane);
    EXPECT_EQ(Reactor::current(), &lane);
    visits.fetch_add(1, std::memory_order_relaxed);
  }
}
task<void> many_visitors(Lanes& lanes, unsigned visitors, unsigned rounds, std::atomic<uint64_t>& visits) {
  TaskGroup group;
  for (unsigned i = 0; i < visitors; ++i)
    group.spawn_on(lanes.lane(i % lanes.count()), visit(lanes, rounds, visits));
  co_await group.join();
  EXPECT_EQ(Reactor::current(), &lanes.home());
}

TEST_P(OnLanes, CoroutinesHopBetweenThem) {
  Lanes lanes(4, backend());
  std::atomic<uint64_t> visits = 0;
  lanes.run(many_visitors(lanes, 50, 300, visits));
  EXPECT_EQ(visits, 50u * 300u);
}

// One hop at a time: every lane falls asleep between them, so a lost wakeup hangs here.
TEST_P(OnLanes, NoWakeupIsLostBetweenSleepers) {
  Lanes lanes(2, backend());
  std::atomic<uint64_t> visits = 0;
  lanes.run(visit(lanes, 20000, visits));
  EXPECT_EQ(visits, 20000u);
}

task<void> end_elsewhere(Lanes& lanes) {
  co_await enter(lanes.lane(1));
}

TEST_P(OnLanes, RunComesHomeFromAnyLane) {
  Lanes lanes(2, backend());
  for (int i = 0; i < 200; ++i) lanes.run(end_elsewhere(lanes));
  EXPECT_EQ(Reactor::current(), nullptr);
}

task<void> write_at(int fd, uint64_t number) {
  EXPECT_EQ(co_await async_write(fd, std::as_bytes(std::span(&number, 1)), number * 8), 8);
  if (number % 100 == 7) throw Error(ErrorKind::kIo, "seven");
}
task<void> write_all(Lanes& lanes, int fd, uint64_t count) {
  TaskGroup group;
  for (uint64_t i = 0; i < count; ++i)
    group.spawn_on(lanes.lane(static_cast<unsigned>(i % lanes.count())), write_at(fd, i));
  EXPECT_THROW(co_await group.join(), Error);
}

TEST_P(OnLanes, GroupsJoinWorkOfAllLanes) {
  const ScratchFd fd;
  Lanes lanes(3, backend());
  for (int round = 0; round < 20; ++round) lanes.run(write_all(lanes, fd, 500));
}

task<void> nothing() {
  co_return;
}
task<void> short_groups(Lanes& lanes, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    auto group = std::make_unique<TaskGroup>();  // the sanitizers watch its end
    for (unsigned lane = 0; lane < lanes.count(); ++lane) group->spawn_on(lanes.lane(lane), nothing());
    co_await group->join();
  }
}

TEST_P(OnLanes, AGroupMayDieRightAfterJoin) {
  Lanes lanes(3, backend());
  lanes.run(short_groups(lanes, 3000));
}

TEST_P(OnLanes, ComeAndGoQuickly) {
  for (int i = 0; i < 50; ++i) {
    Lanes lanes(1 + i % 4, backend());
    if (i % 3 == 0) continue;  // not used at all
    std::atomic<uint64_t> visits = 0;
    lanes.run(visit(lanes, 10, visits));
  }
}

struct Parked {
  Wakeup wakeup;
  std::atomic<bool> parked = false;
  struct Awaiter {
    Parked& self;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept {
      self.wakeup.waiter = waiter;
      self.parked.store(true, std::memory_order_release);
    }
    void await_resume() const noexcept { self.parked.store(false, std::memory_order_relaxed); }
  };
};
task<void> park(Parked& parked, int times) {
  for (int i = 0; i < times; ++i) co_await Parked::Awaiter{parked};
}

TEST_P(OnLanes, ThreadsOutsideMayPost) {
  auto reactor = reactor_named(GetParam());
  constexpr int kTimes = 5000;
  Parked parked;
  std::thread outsider([&] {
    for (int i = 0; i < kTimes; ++i) {
      while (!parked.parked.exchange(false, std::memory_order_acquire)) std::this_thread::yield();
      reactor->post(parked.wakeup);
    }
  });
  reactor->run_until_done(park(parked, kTimes));
  outsider.join();
}

TEST_P(OnLanes, StopEndsALoopFromOutside) {
  for (int i = 0; i < 200; ++i) {
    auto reactor = reactor_named(GetParam());
    std::thread lane([&] { reactor->run(); });
    if (i % 2 == 0) std::this_thread::yield();
    reactor->stop();
    lane.join();
  }
}

volatile sig_atomic_t signals_on_home = 0;
pthread_t home_thread;
void count_signal(int) {
  if (pthread_equal(pthread_self(), home_thread)) signals_on_home = signals_on_home + 1;
}
task<void> raise_while_busy(Lanes& lanes, int fd) {
  TaskGroup group;
  for (unsigned i = 0; i < lanes.count() * 20; ++i)
    group.spawn_on(lanes.lane(i % lanes.count()), write_at(fd, 1));
  kill(getpid(), SIGUSR1);
  co_await group.join();
}

TEST_P(OnLanes, SignalsComeToTheHomeThread) {
  home_thread = pthread_self();
  signals_on_home = 0;
  struct sigaction action = {};
  action.sa_handler = count_signal;
  struct sigaction before = {};
  sigaction(SIGUSR1, &action, &before);
  {
    const ScratchFd fd;
    Lanes lanes(3, backend());
    for (int i = 0; i < 50; ++i) lanes.run(raise_while_busy(lanes, fd));
  }
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(signals_on_home, 50);
}

TEST(Lanes, CountsTheCpusItMayUse) {
  EXPECT_GE(available_cpus(), 1u);
  Lanes lanes;
  EXPECT_EQ(lanes.count(), available_cpus());
  EXPECT_EQ(&lanes.lane(0), &lanes.home());
}

}  // namespace
}  // namespace cofre::io
