// map_chain over chains of devices whose layers know only parts, and whose lengths differ.
#include <gtest/gtest.h>

#include <vector>

#include "base/test_seed.h"
#include "block/device.h"
#include "io/simulated_reactor.h"
#include "storage/memory.h"

namespace cofre::block {
namespace {

constexpr uint64_t kCluster = 16;

// A layer that decides some clusters: 'd' stored bytes, 'z' zeroes, '.' not decided here.
class Layer final : public Device {
 public:
  Layer(std::string clusters, Device* below) : clusters_(std::move(clusters)), below_(below) {}

  const std::string& name() const override { return clusters_; }
  const Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return clusters_.size() * kCluster; }
  Device* backing() const override { return below_; }
  io::task<Extent> map(uint64_t offset, uint64_t length) override {
    co_await io::yield();
    const char kind = kind_at(offset);
    uint64_t run = 1;
    while (run < length && kind_at(offset + run) == kind) ++run;
    co_return Extent{.length_bytes = run, .allocated = kind != '.', .zero = kind == 'z', .data = kind == 'd'};
  }
  char kind_at(uint64_t offset) const { return clusters_.at(offset / kCluster); }

  io::task<void> read(uint64_t, Bytes) override { co_return; }
  io::task<void> write(uint64_t, ConstBytes, WriteFlags) override { co_return; }
  io::task<void> write_zeroes(uint64_t, uint64_t, WriteFlags) override { co_return; }
  io::task<void> discard(uint64_t, uint64_t) override { co_return; }
  io::task<void> flush() override { co_return; }
  io::task<void> resize(uint64_t) override { co_return; }
  io::task<void> close() override { co_return; }

 private:
  std::string clusters_;
  Limits limits_;
  Device* below_;
};

struct Answer {
  bool allocated;
  bool zero;
  uint32_t depth;
  bool operator==(const Answer&) const = default;
};

// What a byte reads as, looked up in the simplest way.
Answer answer_at(const Layer& top, uint64_t offset, const Device* base) {
  const Layer* layer = &top;
  for (uint32_t depth = 0;; ++depth) {
    const char kind = layer->kind_at(offset);
    if (kind != '.') return {true, kind == 'z', depth};
    const auto* below = static_cast<const Layer*>(layer->backing());
    if (below == nullptr) return {false, true, depth};
    if (below == base) return {false, false, depth};
    if (offset >= below->length_bytes()) return {true, true, depth};
    layer = below;
  }
}

TEST(MapChain, AgreesWithAByteByByteLookup) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 200; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::vector<std::unique_ptr<Layer>> chain;
    for (uint64_t depth = 0, layers = 1 + random() % 4; depth < layers; ++depth) {
      std::string clusters(1 + random() % 20, '.');
      for (char& kind : clusters) kind = "d..z"[random() % 4];
      chain.push_back(std::make_unique<Layer>(clusters, chain.empty() ? nullptr : chain.back().get()));
    }
    Layer& top = *chain.back();
    Device* base = random() % 2 == 0 ? nullptr : chain[random() % chain.size()].get();
    if (base == &top) base = nullptr;
    io::SimulatedReactor reactor(seed);
    uint64_t offset = 0;
    while (offset < top.length_bytes()) {
      const uint64_t length = 1 + random() % (top.length_bytes() - offset);
      const ChainExtent found = reactor.run_until_done(map_chain(top, offset, length, base));
      ASSERT_GE(found.extent.length_bytes, 1u);
      ASSERT_LE(found.extent.length_bytes, length);
      for (uint64_t i = 0; i < found.extent.length_bytes; ++i) {
        const Answer got = {found.extent.allocated, found.extent.zero, found.depth};
        ASSERT_EQ(got, answer_at(top, offset + i, base)) << "at " << offset + i;
      }
      offset += found.extent.length_bytes;
    }
  }
}

TEST(MapChain, AShorterBackingReadsAsZeroPastItsEnd) {
  Layer bottom("dd", nullptr);
  Layer top("....", &bottom);
  io::SimulatedReactor reactor(1);
  const ChainExtent inside = reactor.run_until_done(map_chain(top, 0, 4 * kCluster));
  EXPECT_EQ(inside.extent.length_bytes, 2 * kCluster);
  EXPECT_TRUE(inside.extent.data);
  EXPECT_EQ(inside.depth, 1u);
  EXPECT_EQ(inside.layer, &bottom);
  const ChainExtent past = reactor.run_until_done(map_chain(top, 2 * kCluster, 2 * kCluster));
  EXPECT_EQ(past.extent.length_bytes, 2 * kCluster);
  EXPECT_TRUE(past.extent.zero);
  EXPECT_TRUE(past.extent.allocated);
  EXPECT_FALSE(past.extent.data);
}

}  // namespace
}  // namespace cofre::block
