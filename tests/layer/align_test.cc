// The aligning layer against a plain array of bytes.
#include "layer/align.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/error.h"
#include "base/test_seed.h"
#include "block/checked.h"
#include "io/lanes.h"
#include "io/simulated_reactor.h"
#include "io/sync.h"
#include "storage/memory.h"

namespace cofre {
namespace {

struct Below {
  std::unique_ptr<block::Device> top;
  storage::MemoryDevice* memory;
};

Below aligned_memory(uint64_t length, uint32_t block, bool growable, uint32_t alignment = 1) {
  auto memory = std::make_unique<storage::MemoryDevice>(length);
  storage::MemoryDevice* raw = memory.get();
  raw->mutable_limits().request_alignment = block;
  raw->mutable_limits().growable = growable;
  auto checked = block::make_checked(std::move(memory));
  return {block::make_checked(layer::make_aligning(std::move(checked), alignment)), raw};
}

TEST(Aligning, IsTheDeviceItselfWhenNothingIsToDo) {
  auto memory = std::make_unique<storage::MemoryDevice>(4096);
  block::Device* raw = memory.get();
  auto same = layer::make_aligning(std::move(memory), 1);
  EXPECT_EQ(same.get(), raw);
}

TEST(Aligning, ShowsTheFinerAlignment) {
  auto below = aligned_memory(4096, 512, false, 4);
  EXPECT_EQ(below.top->limits().request_alignment, 4u);
  EXPECT_EQ(below.top->limits().discard_alignment, 512u);
  EXPECT_EQ(below.top->length_bytes(), 4096u);
}

// One of many writers of a range that is its own to the byte, but shares blocks with its neighbours.
struct Stripe {
  uint64_t begin;
  uint64_t end;
  uint64_t seed;
};

io::task<void> exercise_stripe(block::Device& device, std::vector<std::byte>& model, Stripe stripe,
                               int requests) {
  std::mt19937_64 random(stripe.seed);
  const io::Reactor* const lane = io::Reactor::current();
  for (int i = 0; i < requests; ++i) {
    const uint64_t offset = stripe.begin + random() % (stripe.end - stripe.begin);
    const uint64_t length = random() % (stripe.end - offset) + 1;
    EXPECT_EQ(io::Reactor::current(), lane);
    switch (random() % 4) {
      case 0:
        co_await device.write_zeroes(offset, length, {});
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(offset), length, std::byte{0});
        break;
      case 1: {
        std::vector<std::byte> got(length);
        co_await device.read(offset, got);
        EXPECT_TRUE(std::equal(got.begin(), got.end(), model.begin() + static_cast<ptrdiff_t>(offset)))
            << length << " bytes at " << offset;
        break;
      }
      default: {
        const auto bytes = random_bytes(random, length);
        co_await device.write(offset, bytes, {.fua = random() % 8 == 0});
        std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<ptrdiff_t>(offset));
      }
    }
  }
}

io::task<void> exercise_stripes(block::Device& device, std::vector<std::byte>& model,
                                std::vector<Stripe> stripes, io::Lanes* lanes, int requests) {
  io::TaskGroup group;
  for (size_t i = 0; i < stripes.size(); ++i) {
    io::Reactor& lane =
        lanes != nullptr ? lanes->lane(static_cast<unsigned>(i % lanes->count())) : *io::Reactor::current();
    group.spawn_on(lane, exercise_stripe(device, model, stripes[i], requests));
  }
  co_await group.join();
}

std::vector<Stripe> cut(std::mt19937_64& random, uint64_t length, unsigned count) {
  std::vector<uint64_t> cuts = {0, length};
  while (cuts.size() <= count) cuts.push_back(random() % length);
  std::sort(cuts.begin(), cuts.end());
  std::vector<Stripe> stripes;
  for (size_t i = 0; i + 1 < cuts.size(); ++i)
    if (cuts[i] < cuts[i + 1]) stripes.push_back({cuts[i], cuts[i + 1], random()});
  return stripes;
}

TEST(Aligning, NeighboursInOneBlockDoNotDisturbEachOther) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 60; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const uint32_t block = 512u << (random() % 4);
    const uint64_t length = 1 + random() % (20 * block);
    auto below = aligned_memory(length, block, random() % 2 == 0);
    std::vector<std::byte> model(length);
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(exercise_stripes(*below.top, model, cut(random, length, 12), nullptr, 30));
    EXPECT_EQ(below.memory->content(), model);
  }
}

TEST(Aligning, LongRequestsGoThroughWithTheirEdgesOnly) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t length = (3u << 20) + 77;
  for (const uint32_t block :
       {512u, 4096u, 256u << 10}) {  // the last is larger than what goes through a buffer
    auto below = aligned_memory(length, block, false);
    std::vector<std::byte> model(length);
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(exercise_stripes(*below.top, model, cut(random, length, 3), nullptr, 30));
    EXPECT_EQ(below.memory->content(), model);
  }
}

TEST(Aligning, OrdersWritesOfSeveralLanes) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  io::Lanes lanes(3, io::Backend::kThreads);
  const uint64_t length = 20 * 512 + 100;
  auto below = aligned_memory(length, 512, false);
  std::vector<std::byte> model(length);
  lanes.run(exercise_stripes(*below.top, model, cut(random, length, 9), &lanes, 200));
  EXPECT_EQ(below.memory->content(), model);
}

io::task<void> append_stripes(block::Device& device, uint64_t base, ConstBytes all,
                              std::vector<Stripe> stripes) {
  io::TaskGroup group;
  for (const Stripe& stripe : stripes) {
    const uint64_t begin = base + stripe.begin;
    group.spawn(device.write(begin, all.subspan(begin, stripe.end - stripe.begin)));
  }
  co_await group.join();
}

TEST(Aligning, GrowsToTheByteWhileOthersAppend) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 100; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const uint64_t start = random() % 3000;
    const uint64_t length = start + 1 + random() % 20000;
    auto below = aligned_memory(start, 512, true);
    const auto content = random_bytes(random, length);
    auto stripes = cut(random, length - start, 8);
    std::shuffle(stripes.begin(), stripes.end(), random);
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(append_stripes(*below.top, start, content, stripes));
    ASSERT_EQ(below.memory->length_bytes(), length);
    EXPECT_TRUE(std::equal(content.begin() + static_cast<ptrdiff_t>(start), content.end(),
                           below.memory->content().begin() + static_cast<ptrdiff_t>(start)));
  }
}

io::task<void> append_beside_tail(block::Device& device, ConstBytes tail, uint64_t tail_at, ConstBytes blocks,
                                  uint64_t blocks_at) {
  io::TaskGroup group;
  group.spawn(device.write(tail_at, tail));
  group.spawn(device.write(blocks_at, blocks));
  co_await group.join();
}

// Appends of whole blocks move the end that a write in the last, incomplete block relies on.
TEST(Aligning, AppendsWaitForWritesAtTheEnd) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 100; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    auto below = aligned_memory(700, 512, true);
    const std::vector<std::byte> tail(1 + random() % 100, std::byte{1});
    const std::vector<std::byte> blocks(1024, std::byte{2});
    const uint64_t tail_at = random() % 2 == 0 ? 700 - tail.size() : 520;
    io::SimulatedReactor reactor(seed);
    reactor.run_until_done(append_beside_tail(*below.top, tail, tail_at, blocks, 2048));
    std::vector<std::byte> expected(3072);
    std::fill_n(expected.begin() + static_cast<ptrdiff_t>(tail_at), tail.size(), std::byte{1});
    std::fill_n(expected.begin() + 2048, 1024, std::byte{2});
    EXPECT_EQ(below.memory->content(), expected);
  }
}

TEST(Aligning, DiscardsWholeBlocksOnly) {
  auto below = aligned_memory(4096, 512, false);
  std::fill(below.memory->content().begin(), below.memory->content().end(), std::byte{7});
  io::SimulatedReactor reactor(1);
  reactor.run_until_done(below.top->discard(100, 1000));
  reactor.run_until_done(below.top->discard(2000, 20));
  for (size_t i = 0; i < 4096; ++i)
    EXPECT_EQ(below.memory->content()[i], std::byte{i >= 512 && i < 1024 ? uint8_t{0} : uint8_t{7}}) << i;
}

TEST(Aligning, MapsFromTheByteAskedFor) {
  auto below = aligned_memory(5000, 512, false);
  io::SimulatedReactor reactor(1);
  const block::Extent extent = reactor.run_until_done(below.top->map(700, 900));
  EXPECT_EQ(extent.length_bytes, 900u);
  EXPECT_EQ(extent.host_offset, 700u);
  const block::Extent last = reactor.run_until_done(below.top->map(4999, 1));
  EXPECT_EQ(last.length_bytes, 1u);
  EXPECT_EQ(last.host_offset, 4999u);
}

TEST(Aligning, RefusesToWriteReadOnlyDevices) {
  auto below = aligned_memory(4096, 512, false);
  below.memory->mutable_limits().read_only = true;
  auto memory = std::make_unique<storage::MemoryDevice>(4096);
  memory->mutable_limits().request_alignment = 512;
  memory->mutable_limits().read_only = true;
  auto top = layer::make_aligning(std::move(memory), 1);
  io::SimulatedReactor reactor(1);
  const std::byte one[1] = {};
  EXPECT_THROW(reactor.run_until_done(top->write(3, one)), Error);
  EXPECT_THROW(reactor.run_until_done(top->write_zeroes(3, 5)), Error);
}

}  // namespace
}  // namespace cofre
