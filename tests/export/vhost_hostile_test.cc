// Guests whose rings break the rules: their queue stands still and says why; other queues and the process go
// on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <random>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "export/vhost_device_thread.h"
#include "export/vhost_user_blk/packed_inflight.h"
#include "storage/memory.h"

namespace cofre::vhost::testing {
namespace {

using ::testing::HasSubstr;

bool readable(int fd, int timeout_ms) {
  pollfd waiting = {.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, timeout_ms) == 1;
}

class HostileTest : public ::testing::TestWithParam<bool> {
 protected:
  HostileTest() {
    front_end_.negotiate((GetParam() ? 0 : feature::kRingPacked) | feature::kEventIndex);
    front_end_.share(memory_);
    front_end_.set_up(0, queue_, FrontEnd::first_base(GetParam()));
    front_end_.set_up(1, other_, FrontEnd::first_base(GetParam()));
  }
  ~HostileTest() override { front_end_.hang_up(); }

  // Makes descriptors available as they are given, each as the ring has them.
  struct Raw {
    uint64_t address = 0;
    uint32_t length = 0;
    uint16_t flags = 0;
    uint16_t next = 0;
  };
  void write(std::byte* at, const Raw& raw, bool in_ring) {
    store_le(at, raw.address);
    store_le(at + 8, raw.length);
    if (GetParam()) {
      store_le(at + 12, uint16_t{0});
      store_le(at + 14, static_cast<uint16_t>(raw.flags | (in_ring ? 1 << 7 : 0)));
    } else {
      store_le(at + 12, raw.flags);
      store_le(at + 14, raw.next);
    }
  }
  void offer(const std::vector<Raw>& descriptors, uint16_t head = 0, uint16_t index = 1) {
    for (size_t i = descriptors.size(); i > 0; --i)
      write(queue_.descriptors() + (i - 1) * 16, descriptors[i - 1], true);
    if (!GetParam()) {
      store_le(queue_.driver_area() + 4, head);
      store_le(queue_.driver_area() + 2, index);
    }
    queue_.kick();
  }
  void expect_broken(const std::string& why) {
    EXPECT_TRUE(readable(queue_.error_fd(), 30'000)) << why;
    const auto buffers = request_.make(RequestType::kIn, 0, 512);
    ASSERT_TRUE(other_.add(buffers));
    other_.publish();
    other_.kick();
    EXPECT_TRUE(readable(other_.call_fd(), 30'000));
    EXPECT_EQ(request_.status(), RequestStatus::kOk);
    EXPECT_EQ(front_end_.ask(Message::kGetQueueNumber).as<uint64_t>(), 4u);
    EXPECT_THAT(thread_.log(), HasSubstr(why));
  }

  storage::MemoryDevice device_{kMiB};
  TestMemory memory_{4 * kMiB};
  SocketPair pair_;
  DeviceThread thread_{device_, std::move(pair_.device), {.queues = 4}};
  FrontEnd front_end_{std::move(pair_.front_end)};
  DriverQueue queue_{memory_, 16, {.packed = GetParam()}};
  DriverQueue other_{memory_, 16, {.packed = GetParam()}};
  BlockRequest request_{memory_, 4096};
  uint64_t page_ = memory_.allocate(65536, 4096);
};

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;

TEST_P(HostileTest, AddressesBeyondTheMemory) {
  offer(
      {{.address = memory_.lower_end() - 8, .length = 16, .flags = kNext, .next = 1}, {page_, 1, kWrite, 0}});
  expect_broken("no memory");
}

TEST_P(HostileTest, AddressesThatWrap) {
  offer({{.address = UINT64_MAX - 7, .length = 16, .flags = kNext, .next = 1}, {page_, 1, kWrite, 0}});
  expect_broken("no memory");
}

TEST_P(HostileTest, HugeLengths) {
  offer({{.address = page_, .length = UINT32_MAX, .flags = 0}});
  expect_broken("no memory");
}

TEST_P(HostileTest, NoLength) {
  offer({{.address = page_, .length = 0, .flags = 0}});
  expect_broken("no bytes");
}

TEST_P(HostileTest, ReadableBehindWritable) {
  offer({{page_, 16, kNext | kWrite, 1}, {page_ + 16, 16, 0, 0}});
  expect_broken("behind");
}

TEST_P(HostileTest, NoHeader) {
  offer({{page_, 15, kNext, 1}, {page_ + 64, 1, kWrite, 0}});
  expect_broken("header");
}

TEST_P(HostileTest, NoStatus) {
  offer({{page_, 16, 0, 0}});
  expect_broken("status");
}

TEST_P(HostileTest, IndirectTablesThatCannotBe) {
  offer({{page_, 24, kIndirect, 0}});
  expect_broken("indirect");
}

TEST_P(HostileTest, IndirectTablesOutside) {
  offer({{memory_.lower_end() - 16, 64, kIndirect, 0}});
  expect_broken("indirect");
}

TEST_P(HostileTest, IndirectTablesThatAreHuge) {
  offer({{page_, 16 * 2000, kIndirect, 0}});
  expect_broken("indirect");
}

TEST_P(HostileTest, IndirectWithinIndirect) {
  write(memory_.at(page_), {.address = page_, .length = 16, .flags = kIndirect}, false);
  offer({{page_, 16, kIndirect, 0}});
  expect_broken("within an indirect");
}

TEST_P(HostileTest, IndirectInAChain) {
  write(memory_.at(page_), {.address = page_ + 64, .length = 16, .flags = 0}, false);
  offer({{page_, 16, kIndirect | kNext, 1}, {page_ + 128, 1, kWrite, 0}});
  expect_broken("indirect");
}

// Of the split layout only.
class SplitHostileTest : public HostileTest {};

TEST_P(SplitHostileTest, Loops) {
  offer({{page_, 16, kNext, 1}, {page_, 16, kNext, 0}});
  expect_broken("loop");
}

TEST_P(SplitHostileTest, LoopsOfATable) {
  write(memory_.at(page_), {.address = page_ + 64, .length = 16, .flags = kNext, .next = 0}, false);
  offer({{page_, 16, kIndirect, 0}});
  expect_broken("loop");
}

TEST_P(SplitHostileTest, NextBeyondTheRing) {
  offer({{page_, 16, kNext, 16}});
  expect_broken("descriptor 16 of a ring of 16");
}

TEST_P(SplitHostileTest, NextBeyondTheTable) {
  write(memory_.at(page_), {.address = page_ + 64, .length = 16, .flags = kNext, .next = 9}, false);
  offer({{page_, 16, kIndirect, 0}});
  expect_broken("descriptor 9 of an indirect table");
}

TEST_P(SplitHostileTest, HeadBeyondTheRing) {
  offer({}, 16);
  expect_broken("descriptor 16 of a ring of 16");
}

TEST_P(SplitHostileTest, IndexThatJumps) {
  offer({}, 0, 17);
  expect_broken("jumped");
}

TEST_P(SplitHostileTest, TheSameRequestTwice) {
  store_le(queue_.driver_area() + 6, uint16_t{0});
  device_.mutable_limits().request_alignment = 512;
  write(queue_.descriptors() + 16, {page_ + 64, 1, kWrite, 0}, true);
  offer({{page_, 16, kNext, 1}}, 0, 2);
  expect_broken("twice");
}

class PackedHostileTest : public HostileTest {};

TEST_P(PackedHostileTest, AChainWithoutEnd) {
  offer(std::vector<Raw>(16, {page_, 16, kNext, 0}));
  expect_broken("more descriptors than the ring has");
}

// What a guest may write anywhere, at any time.
TEST_P(HostileTest, AnythingAtRandom) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    for (int i = 0; i < 16; ++i) {
      const uint64_t places[] = {page_, page_ + 4096, random(), memory_.lower_end() - random() % 64,
                                 TestMemory::kUpperGuest};
      write(queue_.descriptors() + i * 16,
            {.address = places[random() % 5],
             .length = static_cast<uint32_t>(random() % 4 == 0 ? random() : random() % 5 * 16),
             .flags = static_cast<uint16_t>(random() % 8),
             .next = static_cast<uint16_t>(random() % 17)},
            random() % 2 == 0);
    }
    for (int i = 0; i < 512; ++i) *(memory_.at(page_) + i) = static_cast<std::byte>(random() % 3);
    if (!GetParam()) {
      for (int i = 0; i < 19; ++i)
        store_le(queue_.driver_area() + i * 2, static_cast<uint16_t>(random() % 17));
    }
    queue_.kick();
    // A guest that resets its device starts anew.
    if (random() % 2 != 0) continue;
    front_end_.stop(0);
    front_end_.set_up(0, queue_, FrontEnd::first_base(GetParam()));
  }
  front_end_.stop(0);
  const auto buffers = request_.make(RequestType::kIn, 0, 512);
  ASSERT_TRUE(other_.add(buffers));
  other_.publish();
  other_.kick();
  EXPECT_TRUE(readable(other_.call_fd(), 30'000));
  EXPECT_EQ(request_.status(), RequestStatus::kOk);
}

// The memory in which servers note what is in flight belongs to the front end, which may write anything
// there.
TEST_P(HostileTest, InflightAreasThatLie) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const InflightDescription wanted = {.map_size = 0, .map_offset = 0, .queues = 1, .queue_size = 16};
  front_end_.stop(0);
  front_end_.stop(1);
  const Reply reply = front_end_.ask(Message::kGetInflightFd, bytes_of(wanted));
  const auto area = reply.as<InflightDescription>();
  const SharedMapping mapping(reply.descriptors.at(0).get(), 0, area.map_size);
  const std::array<int, 1> fd = {reply.descriptors[0].get()};
  const std::array<int, 1> kick = {queue_.kick_fd()};
  int started = 0;
  for (int round = 0; round < 2000; ++round) {
    std::fill_n(mapping.data(), area.map_size, std::byte{0});
    store_le(mapping.data() + 8, uint16_t{1});
    store_le(mapping.data() + 10, uint16_t{16});
    for (uint64_t i = random() % 40; i > 0; --i) {
      std::byte* const at = mapping.data() + 12 + random() % (area.map_size - 12);
      *at = static_cast<std::byte>(random() % 4 == 0 ? random() : random() % 17);
    }
    ASSERT_TRUE(front_end_.acknowledged(Message::kSetInflightFd, bytes_of(area), fd));
    ASSERT_TRUE(
        front_end_.acknowledged(Message::kSetVringEnable, bytes_of(VringState{.index = 0, .number = 0})));
    ASSERT_TRUE(front_end_.acknowledged(Message::kSetVringKick, bytes_of(uint64_t{0}), kick));
    started +=
        front_end_.acknowledged(Message::kSetVringEnable, bytes_of(VringState{.index = 0, .number = 1}));
    front_end_.stop(0);
  }
  EXPECT_LT(started, 2000);
  EXPECT_EQ(front_end_.ask(Message::kGetQueueNumber).as<uint64_t>(), 4u);
}

// An area that was good once, changed in places: it is refused, or what it says can be worked with.
TEST(PackedInflightTest, DamagedAreas) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  constexpr uint16_t kSize = 16;
  int refused = 0;
  int recovered = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> area(PackedInflight::area_bytes(kSize));
    {
      PackedInflight first(area.data(), kSize);
      PackedIndex used;
      EXPECT_TRUE(first.recover(used, [](uint16_t) { return uint16_t{0}; }).empty());
      for (uint16_t left = kSize; left > 0;) {
        const auto number = static_cast<uint16_t>(1 + random() % std::min<uint64_t>(left, 4));
        first.note_taken(std::vector<PackedDescriptor>(number));
        left = static_cast<uint16_t>(left - number);
        if (random() % 3 == 0) break;
      }
    }
    for (uint64_t i = random() % 4; i > 0; --i)
      area[12 + random() % (area.size() - 12)] = static_cast<std::byte>(random() % 18);
    try {
      PackedInflight second(area.data(), kSize);
      PackedIndex used;
      const auto flags = static_cast<uint16_t>(random());
      const auto requests = second.recover(used, [flags](uint16_t) { return flags; });
      for (const auto& request : requests) second.note_used(request.slot);
      second.note_published();
      std::vector<bool> taken(kSize);
      for (uint16_t i = 0; i < kSize; ++i) {
        const uint16_t slot = second.note_taken(std::vector<PackedDescriptor>(1));
        ASSERT_LT(slot, kSize);
        EXPECT_FALSE(taken[slot]);
        taken[slot] = true;
      }
      ++recovered;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
      ++refused;
    }
  }
  EXPECT_GT(recovered, 0);
  EXPECT_GT(refused, 0);
}

const auto kName = [](const auto& info) { return std::string(info.param ? "Packed" : "Split"); };
INSTANTIATE_TEST_SUITE_P(Rings, HostileTest, ::testing::Bool(), kName);
INSTANTIATE_TEST_SUITE_P(Rings, SplitHostileTest, ::testing::Values(false), kName);
INSTANTIATE_TEST_SUITE_P(Rings, PackedHostileTest, ::testing::Values(true), kName);

}  // namespace
}  // namespace cofre::vhost::testing
