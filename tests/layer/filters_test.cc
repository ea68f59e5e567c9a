// The filters over memory: windows, throttling by a clock of the test's own, copy-on-read, zero detection,
// injected errors, comparison.
#include <gmock/gmock.h>

#include "base/error.h"
#include "io/simulated_reactor.h"
#include "io/sync.h"
#include "layer/blkdebug.h"
#include "layer/blkverify.h"
#include "layer/detect_zeroes.h"
#include "layer/throttle.h"
#include "layer/window.h"
#include "storage/memory.h"

namespace cofre::layer {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

class FilterTest : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  std::vector<std::byte> read(block::Device& device, uint64_t offset, size_t length) {
    std::vector<std::byte> bytes(length);
    run(device.read(offset, bytes));
    return bytes;
  }
  void write(block::Device& device, uint64_t offset, std::vector<std::byte> bytes) {
    run(device.write(offset, bytes));
  }
  template <typename Function>
  ErrorKind kind_of(Function function) {
    try {
      function();
    } catch (const Error& error) {
      return error.kind();
    }
    ADD_FAILURE() << "no error";
    return ErrorKind::kCancelled;
  }

  io::SimulatedReactor reactor_{1};
};

std::vector<std::byte> bytes_of(char value, size_t count) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

TEST_F(FilterTest, AWindowShowsItsPartOnly) {
  auto memory = std::make_unique<storage::MemoryDevice>(4096);
  storage::MemoryDevice& below = *memory;
  const auto window = make_window(std::move(memory), 512, 1024);
  EXPECT_EQ(window->length_bytes(), 1024U);
  write(*window, 512, bytes_of('x', 512));
  EXPECT_EQ(below.content()[1024], std::byte{'x'});
  EXPECT_EQ(below.content()[1023], std::byte{0});
  EXPECT_EQ(below.content()[1536], std::byte{0});
  EXPECT_EQ(kind_of([&] { write(*window, 1024, bytes_of('y', 512)); }), ErrorKind::kNoSpace);
  EXPECT_EQ(kind_of([&] { run(window->resize(512)); }), ErrorKind::kUnsupported);
  EXPECT_EQ(below.content()[1536], std::byte{0});
}

TEST_F(FilterTest, AWindowMustLieWithin) {
  for (const auto& [offset, length] :
       {std::pair{uint64_t{4097}, uint64_t{0}}, std::pair{uint64_t{1}, uint64_t{4096}},
        std::pair{uint64_t{512}, UINT64_MAX}})
    EXPECT_EQ(kind_of([&] { make_window(std::make_unique<storage::MemoryDevice>(4096), offset, length); }),
              ErrorKind::kInvalidArgument);
}

TEST_F(FilterTest, AThrottleLetsThroughItsRate) {
  ThrottleGroup group({.bytes_total = {.average = 1000}});
  // A tenth of a second's worth is free; then requests wait for what came before them.
  uint64_t waited = group.admit(kSecond, false, 100);
  EXPECT_EQ(waited, 0U);
  for (uint64_t i = 0; i < 10; ++i) waited = group.admit(kSecond, i % 2 == 0, 1000);
  EXPECT_NEAR(static_cast<double>(waited), 9e9, 1e6);
  // Ten seconds later all has leaked away.
  EXPECT_EQ(group.admit(12 * kSecond, true, 1), 0U);
}

TEST_F(FilterTest, AThrottleOfReadsLeavesWritesAlone) {
  ThrottleGroup group({.requests_read = {.average = 10}, .request_bytes = 1000});
  EXPECT_EQ(group.admit(kSecond, false, 5000), 0U);
  EXPECT_NEAR(static_cast<double>(group.admit(kSecond, false, 1)), 4e8,
              1e6);  // five, less the one that is free
  EXPECT_EQ(group.admit(kSecond, true, 1'000'000), 0U);
}

TEST_F(FilterTest, ABurstMayLastItsTime) {
  ThrottleGroup group({.bytes_total = {.average = 100, .burst = 1000, .burst_seconds = 2}});
  EXPECT_EQ(group.admit(kSecond, true, 100), 0U);
  EXPECT_EQ(group.admit(kSecond, true, 900), 0U);
  // Faster than the burst's own rate: it waits until its last tenth of a second is left.
  EXPECT_NEAR(static_cast<double>(group.admit(kSecond, true, 900)), 9e8, 1e6);
  EXPECT_EQ(group.admit(30 * kSecond, true, 1), 0U);
}

TEST_F(FilterTest, ZeroesAreDetected) {
  auto memory = std::make_unique<storage::MemoryDevice>(4096);
  storage::MemoryDevice& below = *memory;
  std::ranges::fill(below.content(), std::byte{1});
  const auto device = make_detect_zeroes(std::move(memory), true);
  write(*device, 0, bytes_of('\0', 512));
  write(*device, 512, bytes_of('a', 512));
  EXPECT_EQ(read(*device, 0, 512), bytes_of('\0', 512));
  EXPECT_EQ(read(*device, 512, 512), bytes_of('a', 512));
}

TEST_F(FilterTest, InjectedErrorsFollowEventsAndStates) {
  BlkdebugConfig config;
  config.errors.push_back({.event = block::Event::kL2Load, .state = 2, .errno_value = 28, .once = true});
  config.states.push_back({.event = block::Event::kReadAio, .state = 1, .new_state = 2});
  const auto device = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), config);
  device->raise(block::Event::kL2Load);
  read(*device, 0, 512);
  device->raise(block::Event::kReadAio);
  read(*device, 0, 512);
  device->raise(block::Event::kL2Load);
  EXPECT_EQ(kind_of([&] { read(*device, 0, 512); }), ErrorKind::kNoSpace);
  read(*device, 0, 512);
}

TEST_F(FilterTest, AnInjectedErrorHitsItsSectorAndKind) {
  BlkdebugConfig config;
  config.errors.push_back({.event = block::Event::kNone,
                           .sector = 3,
                           .request_kind = BlkdebugRequest::kWrite,
                           .immediately = true});
  const auto device = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), config);
  read(*device, 0, 4096);
  write(*device, 0, bytes_of('a', 1536));
  EXPECT_EQ(kind_of([&] { write(*device, 1024, bytes_of('a', 1024)); }), ErrorKind::kIo);
  write(*device, 2048, bytes_of('a', 512));
}

// Writes side by side; `done` counts those that have ended.
io::task<void> write_and_count(block::Device& device, uint64_t offset, const std::vector<std::byte>& bytes,
                               unsigned& done) {
  co_await device.write(offset, bytes);
  ++done;
}

io::task<void> pass_a_stopped_write(block::Device& device, Breakpoints& breakpoints) {
  const std::vector<std::byte> bytes(512, std::byte{'x'});
  unsigned done = 0;
  io::TaskGroup group;
  breakpoints.set_break(block::Event::kWriteAio, "A");
  breakpoints.set_break(block::Event::kWriteAio, "B");
  device.raise(block::Event::kWriteAio);
  group.spawn(write_and_count(device, 0, bytes, done));
  group.spawn(write_and_count(device, 1024, bytes, done));
  while (done == 0) co_await io::yield();
  EXPECT_TRUE(breakpoints.is_suspended("A"));
  EXPECT_TRUE(breakpoints.is_suspended("B"));
  EXPECT_TRUE(breakpoints.resume("A"));
  EXPECT_FALSE(breakpoints.resume("A"));
  for (unsigned turn = 0; turn < 20; ++turn) co_await io::yield();
  EXPECT_EQ(done, 1u) << "it is stopped at B still";
  EXPECT_FALSE(breakpoints.remove_break("B")) << "it has stopped a request and is gone";
  co_await group.join();
  EXPECT_EQ(done, 2u);
}

TEST_F(FilterTest, ARequestStopsAtItsBreakpointsAndOthersPassIt) {
  Breakpoints* breakpoints = nullptr;
  const auto device = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), {}, &breakpoints);
  std::vector<std::string> heard;
  breakpoints->set_listener([&](std::string_view tag, bool suspended) {
    heard.push_back((suspended ? "stop " : "go ") + std::string(tag));
  });
  run(pass_a_stopped_write(*device, *breakpoints));
  EXPECT_THAT(heard, testing::ElementsAre("stop B", "stop A", "go A", "go B"));
}

io::task<void> stop_behind_the_write(block::Device& device, Breakpoints& breakpoints) {
  const std::vector<std::byte> bytes(512, std::byte{'x'});
  unsigned done = 0;
  io::TaskGroup group;
  breakpoints.set_break(block::Event::kPwritevDone, "A");
  group.spawn(write_and_count(device, 0, bytes, done));
  while (!breakpoints.is_suspended("A")) co_await io::yield();
  std::vector<std::byte> there(512);
  co_await device.read(0, there);
  EXPECT_EQ(there, bytes);
  EXPECT_EQ(done, 0u);
  breakpoints.resume_all();
  co_await group.join();
}

TEST_F(FilterTest, ARequestCanStopWhenItsBytesAreThere) {
  Breakpoints* breakpoints = nullptr;
  const auto device = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), {}, &breakpoints);
  run(stop_behind_the_write(*device, *breakpoints));
}

TEST_F(FilterTest, TheNextDeviceTakesOverRulesStateAndBreakpoints) {
  BlkdebugConfig config;
  config.errors.push_back({.event = block::Event::kL2Load, .state = 2});
  config.states.push_back({.event = block::Event::kReadAio, .state = 1, .new_state = 2});
  Breakpoints* before = nullptr;
  Breakpoints* after = nullptr;
  const auto first = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), config, &before);
  const auto second = make_blkdebug(std::make_unique<storage::MemoryDevice>(4096), config, &after);
  first->raise(block::Event::kReadAio);
  before->set_break(block::Event::kFlushToDisk, "A");
  after->take_over(*before);
  second->raise(block::Event::kL2Load);
  EXPECT_EQ(kind_of([&] { read(*second, 0, 512); }), ErrorKind::kIo);
  EXPECT_TRUE(after->remove_break("A"));
  after->set_break(block::Event::kFlushToDisk, "B");
  after->forget_all();
  EXPECT_FALSE(after->remove_break("B"));
}

TEST_F(FilterTest, ADifferenceIsToldByItsOffset) {
  auto raw = std::make_unique<storage::MemoryDevice>(4096);
  storage::MemoryDevice& copy = *raw;
  const auto device = make_blkverify(std::make_unique<storage::MemoryDevice>(4096), std::move(raw));
  write(*device, 512, bytes_of('a', 512));
  EXPECT_EQ(copy.content()[512], std::byte{'a'});
  read(*device, 0, 4096);
  copy.content()[700] = std::byte{'b'};
  try {
    read(*device, 512, 512);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("contents mismatch at offset 700"));
  }
}

}  // namespace
}  // namespace cofre::layer
