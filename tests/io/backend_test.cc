// What every backend owes its callers.
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "io/backend_fixture.h"
#include "io/scratch_fd.h"
#include "io/sync.h"

namespace cofre::io {
namespace {

using Backends = OnBackend;
INSTANTIATE_TEST_SUITE_P(Io, Backends, testing::ValuesIn(backend_names()),
                         [](const auto& param) { return param.param; });

task<int64_t> write_bytes(int fd, std::string text, uint64_t offset) {
  co_return co_await async_write(fd, std::as_bytes(std::span(text)), offset);
}
task<int64_t> read_bytes(int fd, std::string& text, uint64_t offset) {
  co_return co_await async_read(fd, std::as_writable_bytes(std::span(text)), offset);
}

TEST_P(Backends, ReadsAndWrites) {
  const ScratchFd fd;
  EXPECT_EQ(reactor_.run_until_done(write_bytes(fd, "hello", 1000)), 5);
  std::string got(5, '?');
  EXPECT_EQ(reactor_.run_until_done(read_bytes(fd, got, 1000)), 5);
  EXPECT_EQ(got, "hello");
  EXPECT_EQ(reactor_.run_until_done(read_bytes(fd, got, 1003)), 2);
  EXPECT_EQ(reactor_.run_until_done(read_bytes(fd, got, 5000)), 0);
}

task<void> copy_with_hint(int fd, Residence residence, size_t size) {
  const std::vector<std::byte> bytes(size, std::byte{7});
  EXPECT_EQ(co_await async_write(fd, bytes, 100, residence), static_cast<int64_t>(size));
  std::vector<std::byte> got(size);
  EXPECT_EQ(co_await async_read(fd, got, 100, residence), static_cast<int64_t>(size));
  EXPECT_EQ(got, bytes);
  EXPECT_EQ(co_await async_read(fd, got, 100 + size, residence), 0);
  EXPECT_EQ(co_await async_read(-1, got, 0, residence), -EBADF);
}

TEST_P(Backends, HintsChangeNoResult) {
  for (const Residence residence : {Residence::kUnknown, Residence::kPageCache, Residence::kMemory})
    for (const size_t size : {1u, 4096u, 1u << 20}) {
      const ScratchFd fd;
      reactor_.run_until_done(copy_with_hint(fd, residence, size));
      FILE* on_disk = tmpfile();
      ASSERT_NE(on_disk, nullptr);
      reactor_.run_until_done(copy_with_hint(fileno(on_disk), residence, size));
      fclose(on_disk);
    }
}

task<void> write_and_note(int fd, bool& done) {
  co_await async_write(fd, std::as_bytes(std::span("x", 1)), 0);
  co_await sleep_ns(1000);
  done = true;
}
task<void> write_in_memory(int fd, int times) {
  for (int i = 0; i < times; ++i)
    EXPECT_EQ(co_await async_write(fd, std::as_bytes(std::span("x", 1)), 0, Residence::kMemory), 1);
}
task<void> write_until(int fd, const bool& done) {
  while (!done) co_await async_write(fd, std::as_bytes(std::span("x", 1)), 0, Residence::kMemory);
}
task<void> endless_writer_beside_sleeper(int fd) {
  bool done = false;
  TaskGroup group;
  group.spawn(write_until(fd, done));
  group.spawn(write_and_note(fd, done));
  co_await group.join();
}

TEST_P(Backends, OperationsDoneAtOnceLetOthersRun) {
  const ScratchFd fd;
  reactor_.run_until_done(write_in_memory(fd, 100'000));  // and take no stack
  reactor_.run_until_done(endless_writer_beside_sleeper(fd));
}

TEST_P(Backends, GivesErrnos) {
  const int read_only = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(reactor_.run_until_done(write_bytes(read_only, "x", 0)), -EBADF);
  std::string got(5, '?');
  EXPECT_EQ(reactor_.run_until_done(read_bytes(-1, got, 0)), -EBADF);
  close(read_only);
}

task<int64_t> sync_and_allocate(int fd) {
  const int64_t allocated = co_await async_fallocate(fd, 0, 4096, 8192);
  if (allocated != 0) co_return allocated;
  co_return co_await async_data_sync(fd);
}
task<int64_t> punch_wrongly(int fd) {
  co_return co_await async_fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096);
}

TEST_P(Backends, AllocatesAndSyncs) {
  const ScratchFd fd;
  EXPECT_EQ(reactor_.run_until_done(sync_and_allocate(fd)), 0);
  struct stat about = {};
  ASSERT_EQ(fstat(fd, &about), 0);
  EXPECT_EQ(about.st_size, 4096 + 8192);
  EXPECT_EQ(reactor_.run_until_done(sync_and_allocate(-1)), -EBADF);
  EXPECT_LT(reactor_.run_until_done(punch_wrongly(fd)), 0);  // needs KEEP_SIZE too
}

task<void> write_number(int fd, uint64_t number, uint64_t& done) {
  EXPECT_EQ(co_await async_write(fd, std::as_bytes(std::span(&number, 1)), number * 8), 8);
  ++done;
}
task<void> write_numbers(int fd, uint64_t count) {
  uint64_t done = 0;
  TaskGroup group;
  for (uint64_t i = 0; i < count; ++i) group.spawn(write_number(fd, i, done));
  co_await group.join();
  EXPECT_EQ(done, count);
}

// More than the ring, its completion queue and the pool hold.
TEST_P(Backends, ThousandsOfOperationsAtOnce) {
  constexpr uint64_t kCount = 20000;
  const ScratchFd fd;
  reactor_.run_until_done(write_numbers(fd, kCount));
  std::vector<uint64_t> numbers(kCount);
  ASSERT_EQ(pread(fd, numbers.data(), kCount * 8, 0), static_cast<ssize_t>(kCount * 8));
  for (uint64_t i = 0; i < kCount; ++i) ASSERT_EQ(numbers[i], i);
}

task<void> yield_times(int times, std::vector<int>& order, int name) {
  for (int i = 0; i < times; ++i) {
    order.push_back(name);
    co_await yield();
  }
}
task<void> two_yielders(std::vector<int>& order) {
  TaskGroup group;
  group.spawn(yield_times(50, order, 1));
  group.spawn(yield_times(50, order, 2));
  co_await group.join();
}

TEST_P(Backends, YieldLetsOthersRun) {
  std::vector<int> order;
  reactor_.run_until_done(two_yielders(order));
  ASSERT_EQ(order.size(), 100u);
  int changes = 0;
  for (size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1];
  EXPECT_GT(changes, 10);
}

task<void> yield_until(const bool& done) {
  while (!done) co_await yield();
}
task<void> spin_beside_io(int fd) {
  bool done = false;
  TaskGroup group;
  group.spawn(yield_until(done));
  group.spawn(write_and_note(fd, done));
  co_await group.join();
}

TEST_P(Backends, YieldingForeverDoesNotStarveOperations) {
  const ScratchFd fd;
  reactor_.run_until_done(spin_beside_io(fd));
}

task<void> sleep_and_note(uint64_t nanoseconds, std::vector<uint64_t>& woken) {
  EXPECT_EQ(co_await sleep_ns(nanoseconds), 0);
  woken.push_back(nanoseconds);
}
task<void> many_sleepers(int fd, std::vector<uint64_t>& woken) {
  TaskGroup group;
  for (uint64_t i = 0; i < 64; ++i) group.spawn(sleep_and_note(200'000'000, woken));
  // Sleepers hold nothing that others need.
  group.spawn(sleep_and_note(1, woken));
  EXPECT_EQ(co_await async_write(fd, std::as_bytes(std::span("x", 1)), 0), 1);
  co_await group.join();
}

TEST_P(Backends, SleepersWakeAndHoldNobodyUp) {
  const ScratchFd fd;
  std::vector<uint64_t> woken;
  reactor_.run_until_done(many_sleepers(fd, woken));
  ASSERT_EQ(woken.size(), 65u);
  if (GetParam() != "simulated") EXPECT_EQ(woken.front(), 1u);  // a simulated one orders them as it likes
}

task<void> note_and_run_inner(Reactor& reactor, int fd, uint64_t number, uint64_t& done) {
  co_await yield();
  if (number % 16 == 0) reactor.run_until_done(write_bytes(fd, "nested", number));
  co_await write_number(fd, number, done);
}
task<void> nested_among_many(Reactor& reactor, int fd, uint64_t& done) {
  TaskGroup group;
  for (uint64_t i = 0; i < 200; ++i) group.spawn(note_and_run_inner(reactor, fd, i, done));
  co_await group.join();
}

TEST_P(Backends, NestedLoopsLoseNobody) {
  const ScratchFd fd;
  uint64_t done = 0;
  reactor_.run_until_done(nested_among_many(reactor_, fd, done));
  EXPECT_EQ(done, 200u);
}

// The inner loop waits for something that the outer one has ready but not yet resumed.
task<void> set_flag_after_yield(bool& flag) {
  co_await yield();
  flag = true;
}
task<void> run_inner_until(Reactor& reactor, const bool& flag) {
  co_await yield();
  reactor.run_until_done(yield_until(flag));
}
task<void> inner_needs_outer(Reactor& reactor) {
  bool flag = false;
  TaskGroup group;
  group.spawn(run_inner_until(reactor, flag));
  group.spawn(set_flag_after_yield(flag));
  co_await group.join();
}

TEST_P(Backends, InnerLoopMayWaitForWhatTheOuterOneHasReady) {
  reactor_.run_until_done(inner_needs_outer(reactor_));
}

}  // namespace
}  // namespace cofre::io
