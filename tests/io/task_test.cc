// task<T>: values, exceptions, lifetimes.
#include "io/task.h"

#include <string>

#include "io/backend_fixture.h"

namespace cofre::io {
namespace {

using Task = OnBackend;
INSTANTIATE_TEST_SUITE_P(Io, Task, testing::ValuesIn(backend_names()),
                         [](const auto& param) { return param.param; });

task<int> value_now(int value) {
  co_return value;
}
task<int> value_later(int value) {
  co_await yield();
  co_return value;
}
task<void> throw_now() {
  throw std::runtime_error("now");
  co_return;
}
task<int> throw_later() {
  co_await yield();
  throw std::runtime_error("later");
}
task<std::unique_ptr<std::string>> move_only() {
  co_return std::make_unique<std::string>("moved");
}

TEST_P(Task, GivesItsValue) {
  EXPECT_EQ(reactor_.run_until_done(value_now(3)), 3);
  EXPECT_EQ(reactor_.run_until_done(value_later(4)), 4);
  EXPECT_EQ(*reactor_.run_until_done(move_only()), "moved");
}

TEST_P(Task, ThrowsItsException) {
  EXPECT_THROW(reactor_.run_until_done(throw_now()), std::runtime_error);
  EXPECT_THROW(reactor_.run_until_done(throw_later()), std::runtime_error);
  EXPECT_EQ(Reactor::current(), nullptr);
}

task<int> catch_and_go_on() {
  int caught = 0;
  for (int i = 0; i < 10; ++i) {
    try {
      co_await throw_later();
    } catch (const std::runtime_error&) {
      ++caught;
    }
  }
  co_return caught;
}

TEST_P(Task, ExceptionsAreCaughtAcrossAwaits) {
  EXPECT_EQ(reactor_.run_until_done(catch_and_go_on()), 10);
}

task<uint64_t> add_many(uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum += static_cast<uint64_t>(co_await value_now(1));
  co_return sum;
}

TEST_P(Task, AwaitingManyFinishedTasksTakesNoStack) {
  EXPECT_EQ(reactor_.run_until_done(add_many(1'000'000)), 1'000'000u);
}

task<uint64_t> nested_depth(uint64_t depth) {
  if (depth == 0) co_return 0;
  const uint64_t below = co_await nested_depth(depth - 1);
  co_return below + 1;
}

TEST_P(Task, NestsDeeply) {
  EXPECT_EQ(reactor_.run_until_done(nested_depth(1000)), 1000u);
}

struct CountsLives {
  explicit CountsLives(int& alive) : alive_(&alive) { ++*alive_; }
  CountsLives(CountsLives&& other) noexcept : alive_(other.alive_) { ++*alive_; }
  CountsLives(const CountsLives&) = delete;
  ~CountsLives() { --*alive_; }
  int* alive_;
};

task<void> hold(CountsLives held) {
  const CountsLives local(*held.alive_);
  co_await yield();
}

TEST_P(Task, FreesItsFrameAndArguments) {
  int alive = 0;
  reactor_.run_until_done(hold(CountsLives(alive)));
  EXPECT_EQ(alive, 0);
  {
    const task<void> never_awaited = hold(CountsLives(alive));
  }
  EXPECT_EQ(alive, 0);
}

task<int> run_inner(Reactor& reactor) {
  co_await yield();
  co_return reactor.run_until_done(value_later(7));
}

TEST_P(Task, RunsNestedLoops) {
  EXPECT_EQ(reactor_.run_until_done(run_inner(reactor_)), 7);
  EXPECT_EQ(Reactor::current(), nullptr);
  auto other = reactor_named(GetParam());
  EXPECT_EQ(other->run_until_done(run_inner(reactor_)), 7);
  EXPECT_EQ(Reactor::current(), nullptr);
}

}  // namespace
}  // namespace cofre::io
