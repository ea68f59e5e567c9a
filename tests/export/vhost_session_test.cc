// What a front end may say, and what becomes of one that says something else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "base/units.h"
#include "export/vhost_device_thread.h"
#include "storage/memory.h"

namespace cofre::vhost::testing {
namespace {

using ::testing::HasSubstr;

class SessionTest : public ::testing::Test {
 protected:
  ~SessionTest() override { front_end_.hang_up(); }

  // The device hangs up, and says why.
  void expect_cut_off(const std::string& why) {
    while (front_end_.receive()) {
    }
    thread_.join();
    EXPECT_THAT(thread_.log(), HasSubstr(why));
  }

  storage::MemoryDevice device_{1 * kMiB + 512};
  SocketPair pair_;
  DeviceThread thread_{device_, std::move(pair_.device), {.queues = 5, .queue_size = 256}};
  FrontEnd front_end_{std::move(pair_.front_end)};
  TestMemory memory_{4 * kMiB};
};

TEST_F(SessionTest, Configuration) {
  front_end_.negotiate();
  const auto config = front_end_.config(0, 60);
  ASSERT_EQ(config.size(), 60u);
  EXPECT_EQ(load_le<uint64_t>(config.data()), (kMiB + 512) / 512);
  EXPECT_EQ(load_le<uint32_t>(config.data() + 12), 126u);
  EXPECT_EQ(load_le<uint32_t>(config.data() + 20), 512u);
  EXPECT_EQ(config[32], std::byte{1});
  EXPECT_EQ(load_le<uint16_t>(config.data() + 34), 5u);
  EXPECT_EQ(load_le<uint32_t>(config.data() + 36), kMostRangeSectors);
  EXPECT_EQ(front_end_.config(34, 2).size(), 2u);
  EXPECT_EQ(front_end_.config(200, 56).size(), 56u);
  EXPECT_TRUE(front_end_.config(200, 57).empty());
  EXPECT_TRUE(front_end_.config(UINT32_MAX, 2).empty());
  EXPECT_EQ(front_end_.ask(Message::kGetQueueNumber).as<uint64_t>(), 5u);
  EXPECT_GE(front_end_.ask(Message::kGetMaximumMemorySlots).as<uint64_t>(), 32u);
}

TEST_F(SessionTest, OnlyTheCacheModeMayBeSet) {
  front_end_.negotiate();
  const auto set = [&](uint32_t offset, std::vector<std::byte> value, uint32_t flags = 0) {
    std::vector<std::byte> payload(sizeof(ConfigAccess));
    const ConfigAccess access = {
        .offset = offset, .size = static_cast<uint32_t>(value.size()), .flags = flags};
    std::memcpy(payload.data(), &access, sizeof access);
    payload.insert(payload.end(), value.begin(), value.end());
    return front_end_.acknowledged(Message::kSetConfig, payload);
  };
  EXPECT_TRUE(set(kWritebackAt, {std::byte{0}}));
  EXPECT_EQ(front_end_.config(kWritebackAt, 1).at(0), std::byte{0});
  EXPECT_TRUE(set(kWritebackAt, {std::byte{1}}, /*flags=*/1));
  EXPECT_EQ(front_end_.config(kWritebackAt, 1).at(0), std::byte{1});
  EXPECT_TRUE(set(kWritebackAt, {std::byte{0}}));
  EXPECT_EQ(front_end_.config(kWritebackAt, 1).at(0), std::byte{0});
  EXPECT_FALSE(set(0, std::vector<std::byte>(8)));
  EXPECT_FALSE(set(kWritebackAt, std::vector<std::byte>(2)));
  EXPECT_TRUE(set(0, std::vector<std::byte>(60), kConfigForMigration));
  EXPECT_EQ(load_le<uint64_t>(front_end_.config(0, 8).data()), (kMiB + 512) / 512);
}

TEST_F(SessionTest, FeaturesThatWereNotOfferedAreRefused) {
  front_end_.negotiate();
  const uint64_t offered = front_end_.ask(Message::kGetFeatures).as<uint64_t>();
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetFeatures, bytes_of(~uint64_t{0})));
  EXPECT_TRUE(front_end_.acknowledged(Message::kSetFeatures, bytes_of(offered)));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetProtocolFeatures, bytes_of(~uint64_t{0})));
}

TEST_F(SessionTest, MessagesThatAreNotKnown) {
  front_end_.negotiate();
  EXPECT_FALSE(front_end_.acknowledged(static_cast<Message>(6)));
  front_end_.send(static_cast<Message>(99));
  expect_cut_off("message 99");
}

TEST_F(SessionTest, WhatIsNoMessage) {
  front_end_.send(Message::kSetOwner, {}, {}, /*flags=*/2);
  expect_cut_off("no message");
}

TEST_F(SessionTest, MessagesThatAreTooLong) {
  front_end_.send(Message::kSetOwner, std::vector<std::byte>(5000));
  expect_cut_off("5000 bytes");
}

TEST_F(SessionTest, MessagesOfTheWrongLength) {
  front_end_.negotiate();
  for (const Message message :
       {Message::kSetFeatures, Message::kSetVringSize, Message::kSetVringAddress, Message::kSetVringBase,
        Message::kSetVringEnable, Message::kSetVringKick, Message::kSetVringCall, Message::kSetVringError,
        Message::kSetMemoryTable, Message::kAddMemoryRegion, Message::kRemoveMemoryRegion,
        Message::kSetConfig, Message::kSetInflightFd, Message::kSetOwner, Message::kResetDevice}) {
    for (const size_t length : {3u, 7u, 13u, 1001u})
      EXPECT_FALSE(front_end_.acknowledged(message, std::vector<std::byte>(length)))
          << name_of(message) << " " << length;
  }
}

TEST_F(SessionTest, DescriptorsThatDoNotBelong) {
  front_end_.negotiate();
  DriverQueue queue(memory_, 16, {});
  const std::array<int, 2> two = {queue.kick_fd(), queue.kick_fd()};
  const std::array<int, 1> one = {queue.kick_fd()};
  const std::array<int, 1> file = {memory_.fd()};
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetOwner, {}, one));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringKick, bytes_of(uint64_t{0}), two));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringKick, bytes_of(uint64_t{0})));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringKick, bytes_of(kNoDescriptorFlag), one));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringCall, bytes_of(uint64_t{0}), file));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringCall, bytes_of(uint64_t{5}), one));
  EXPECT_TRUE(front_end_.acknowledged(Message::kSetVringCall, bytes_of(uint64_t{4}), one));
  const std::vector<int> many(12, queue.kick_fd());
  front_end_.send(Message::kSetOwner, {}, many);
  expect_cut_off("descriptors");
}

TEST_F(SessionTest, QueuesThatCannotBe) {
  front_end_.negotiate(feature::kRingPacked);
  front_end_.share(memory_);
  const auto size = [&](uint32_t index, uint32_t number) {
    return front_end_.acknowledged(Message::kSetVringSize,
                                   bytes_of(VringState{.index = index, .number = number}));
  };
  EXPECT_FALSE(size(0, 0));
  EXPECT_FALSE(size(0, 512));
  EXPECT_FALSE(size(5, 16));
  EXPECT_TRUE(size(0, 17));  // as a packed ring might be
  DriverQueue queue(memory_, 16, {});
  const std::array<int, 1> kick = {queue.kick_fd()};
  EXPECT_TRUE(
      front_end_.acknowledged(Message::kSetVringEnable, bytes_of(VringState{.index = 0, .number = 1})));
  EXPECT_TRUE(front_end_.acknowledged(Message::kSetVringAddress, bytes_of(queue.address(0))));
  EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringKick, bytes_of(uint64_t{0}), kick));
  EXPECT_TRUE(size(0, 16));
  for (uint64_t VringAddress::* part :
       {&VringAddress::descriptors, &VringAddress::available, &VringAddress::used}) {
    for (const uint64_t wrong :
         {uint64_t{0}, UINT64_MAX - 3, TestMemory::kUser + 1, TestMemory::kUser + memory_.lower_end() - 2}) {
      VringAddress address = queue.address(0);
      address.*part = wrong;
      EXPECT_FALSE(front_end_.acknowledged(Message::kSetVringAddress, bytes_of(address))) << wrong;
    }
  }
  EXPECT_TRUE(front_end_.acknowledged(Message::kSetVringAddress, bytes_of(queue.address(0))));
  EXPECT_FALSE(size(0, 32)) << "while it runs";
}

TEST_F(SessionTest, MemoryThatCannotBe) {
  front_end_.negotiate();
  const std::array<int, 1> fd = {memory_.fd()};
  const auto add = [&](MemoryRegion region) {
    return front_end_.acknowledged(Message::kAddMemoryRegion, bytes_of(SingleRegion{.region = region}), fd);
  };
  const uint64_t size = memory_.size();
  EXPECT_FALSE(add({.guest_address = 0, .size = 0, .user_address = 0}));
  EXPECT_FALSE(add({.guest_address = 0, .size = size + 1, .user_address = 0}));
  EXPECT_FALSE(add({.guest_address = 0, .size = size, .user_address = 0, .map_offset = 1}));
  EXPECT_FALSE(add({.guest_address = UINT64_MAX - 100, .size = 4096, .user_address = 0}));
  EXPECT_FALSE(add({.guest_address = 0, .size = 4096, .user_address = UINT64_MAX - 100}));
  EXPECT_FALSE(add({.guest_address = 0, .size = 4096, .user_address = 0, .map_offset = UINT64_MAX - 100}));
  EXPECT_TRUE(add({.guest_address = 4096, .size = 8192, .user_address = 1 << 20, .map_offset = 512}));
  EXPECT_FALSE(add({.guest_address = 8192, .size = 8192, .user_address = 1 << 24}));
  EXPECT_FALSE(add({.guest_address = 1 << 20, .size = 8192, .user_address = (1 << 20) + 4096}));
  const auto remove = [&](uint64_t guest) {
    const SingleRegion slot = {
        .region = {.guest_address = guest, .size = 8192, .user_address = 1 << 20, .map_offset = 0}};
    return front_end_.acknowledged(Message::kRemoveMemoryRegion, bytes_of(slot));
  };
  EXPECT_FALSE(remove(0));
  EXPECT_TRUE(remove(4096));
  EXPECT_FALSE(remove(4096));
  const DriverQueue queue(memory_, 2, {});
  const std::array<int, 1> no_file = {queue.kick_fd()};
  EXPECT_FALSE(front_end_.acknowledged(Message::kAddMemoryRegion,
                                       bytes_of(SingleRegion{.region = {.size = 4096}}), no_file));
}

TEST_F(SessionTest, InflightAreasThatCannotBe) {
  front_end_.negotiate();
  const auto give = [&](InflightDescription area) {
    const std::array<int, 1> fd = {memory_.fd()};
    return front_end_.acknowledged(Message::kSetInflightFd, bytes_of(area), fd);
  };
  EXPECT_FALSE(give({.map_size = 4096, .map_offset = 0, .queues = 5, .queue_size = 256}));
  EXPECT_FALSE(give({.map_size = UINT64_MAX, .map_offset = 0, .queues = 1, .queue_size = 16}));
  EXPECT_FALSE(give({.map_size = 1 << 20, .map_offset = 7, .queues = 1, .queue_size = 16}));
  EXPECT_FALSE(give({.map_size = 1 << 20, .map_offset = 0, .queues = 0, .queue_size = 16}));
  EXPECT_TRUE(give({.map_size = 1 << 20, .map_offset = 0, .queues = 1, .queue_size = 16}));
}

// Memory that the front end makes shorter while it is in use must not end the process.
TEST_F(SessionTest, MemoryThatIsTakenAway) {
  front_end_.negotiate(feature::kRingPacked);
  front_end_.share(memory_);
  DriverQueue queue(memory_, 16, {});
  DriverQueue on_another_lane(memory_, 16, {});
  front_end_.set_up(0, queue, 0);
  front_end_.set_up(1, on_another_lane, 0);
  EXPECT_EQ(front_end_.ask(Message::kGetQueueNumber).as<uint64_t>(), 5u);
  ASSERT_EQ(::ftruncate(memory_.fd(), 0), 0);
  for (const DriverQueue* each : {&queue, &on_another_lane}) {
    each->kick();
    pollfd waiting = {.fd = each->error_fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&waiting, 1, 30'000), 1);
  }
  // The session lives on.
  EXPECT_EQ(front_end_.ask(Message::kGetQueueNumber).as<uint64_t>(), 5u);
  EXPECT_THAT(thread_.log(), HasSubstr("took memory away"));
}

}  // namespace
}  // namespace cofre::vhost::testing
