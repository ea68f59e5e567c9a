// ReferenceCounts against a plain map, and read_ahead against the bytes it should show.
#include "format/qcow2/check_counts.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"
#include "base/test_seed.h"
#include "format/qcow2/read_ahead.h"
#include "io/lanes.h"
#include "layer/fault.h"
#include "storage/memory.h"

namespace cofre::qcow2 {
namespace {

using Flag = ReferenceCounts::Flag;

struct Known {
  uint64_t references = 0;
  bool copied = false;
  bool plain = false;
};

// Clusters near each other, near the borders of pieces, and far away.
uint64_t some_cluster(std::mt19937_64& random) {
  switch (random() % 3) {
    case 0:
      return random() % 300;
    case 1:
      return ReferenceCounts::kPerPiece * (1 + random() % 40) - random() % 80;
    default:
      return (uint64_t{1} << 40) + random() % 10'000;
  }
}

void expect_same(const ReferenceCounts& counts, const std::map<uint64_t, Known>& model) {
  for (const auto& [cluster, known] : model) {
    ASSERT_EQ(counts.of(cluster), known.references) << "cluster " << cluster;
    const uint64_t first = cluster / ReferenceCounts::kPerWord * ReferenceCounts::kPerWord;
    const ReferenceCounts::Word word = counts.word(first);
    const uint64_t bit = uint64_t{1} << (cluster - first);
    ASSERT_EQ((word.referenced & bit) != 0, known.references >= 1);
    ASSERT_EQ((word.several & bit) != 0, known.references >= 2);
    const bool at_odds = (known.copied && known.references >= 2) || (known.plain && known.references == 1);
    ASSERT_EQ((word.flags_at_odds() & bit) != 0, at_odds) << "cluster " << cluster;
  }
}

TEST(ReferenceCounts, AgreesWithAPlainMap) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(fmt::format("COFRE_TEST_SEED={}", seed));
  std::mt19937_64 random(seed);
  ReferenceCounts counts("image", 256 << 20);
  std::map<uint64_t, Known> model;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t first = some_cluster(random);
    if (random() % 4 == 0) {
      const uint64_t references = random() % 3 == 0 ? random() % 100'000 : random() % 3;
      counts.set(first, references);
      model[first].references = references;
      continue;
    }
    const uint64_t count = 1 + random() % (random() % 8 == 0 ? 9000 : 100);
    const uint64_t references = random() % 5 == 0 ? 1 + random() % 300 : 1;
    const Flag flag = std::array{Flag::kNone, Flag::kCopied, Flag::kPlain}[random() % 3];
    counts.add_run(first, count, references, flag);
    for (uint64_t cluster = first; cluster < first + count; ++cluster) {
      Known& known = model[cluster];
      known.references += references;
      known.copied |= flag == Flag::kCopied;
      known.plain |= flag == Flag::kPlain;
    }
  }
  expect_same(counts, model);
  EXPECT_EQ(counts.of(uint64_t{1} << 50), 0u);
  EXPECT_EQ(counts.end(), model.rbegin()->first + 1);
}

TEST(ReferenceCounts, ClustersOfAPieceThatIsReferencedAreFound) {
  ReferenceCounts counts("image", 1 << 20);
  counts.add_run(ReferenceCounts::kPerPiece * 7 - 1, 2, 1);
  EXPECT_EQ(counts.pieces(),
            (std::vector<uint64_t>{ReferenceCounts::kPerPiece * 6, ReferenceCounts::kPerPiece * 7}));
}

TEST(ReferenceCounts, TakesNoMoreMemoryThanItMay) {
  ReferenceCounts counts("image", 64 << 10);
  const auto scatter = [&] {
    for (uint64_t i = 0; i < 1000; ++i) counts.add_run(i * ReferenceCounts::kPerPiece, 1, 1);
  };
  EXPECT_THROW(scatter(), Error);
  ReferenceCounts shared("image", 64 << 10);
  const auto share = [&] { shared.add_run(0, ReferenceCounts::kPerPiece, 1'000'000); };
  EXPECT_THROW(share(), Error);
}

constexpr uint64_t kItem = 4096;

// Each item's first byte tells which it is.
std::unique_ptr<storage::MemoryDevice> items(size_t count) {
  auto memory = std::make_unique<storage::MemoryDevice>(count * kItem);
  for (size_t i = 0; i < count; ++i) memory->content()[i * kItem] = static_cast<std::byte>(i % 251);
  return memory;
}

constexpr size_t kCount = 3000;

// Neighbours for the most part; the file's first item is not among them.
std::vector<size_t> some_order() {
  std::vector<size_t> order(kCount);
  for (size_t i = 0; i < kCount; ++i) order[i] = i % 7 == 0 ? kCount - i : i;
  return order;
}

struct Seen {
  size_t items = 0;
  std::vector<size_t> unreadable = {};  // places in the file
};

io::task<void> nothing() {
  co_return;
}

Seen read_all(block::Device& file) {
  io::Lanes lanes(2);
  const std::vector<size_t> order = some_order();
  Seen seen;
  const auto visit = [&](size_t i, Bytes item, const std::string& trouble) {
    EXPECT_EQ(i, seen.items++);
    if (!trouble.empty()) {
      seen.unreadable.push_back(order[i]);
    } else {
      EXPECT_EQ(item[0], static_cast<std::byte>(order[i] % 251));
    }
    return nothing();
  };
  lanes.run(read_ahead(
      {.file = file, .item_bytes = kItem, .count = kCount, .lane = &lanes.lane(1)},
      [&](size_t i) { return order[i] * kItem; }, visit));
  return seen;
}

TEST(ReadAhead, ShowsEveryItemInOrder) {
  const Seen seen = read_all(*items(kCount + 1));
  EXPECT_EQ(seen.items, kCount);
  EXPECT_TRUE(seen.unreadable.empty());
}

TEST(ReadAhead, TellsWhichItemCannotBeRead) {
  layer::FaultDevice faulty(items(kCount + 1));
  faulty.add({.kinds = layer::RequestKind::kRead, .begin = 1234 * kItem + 512, .end = 1234 * kItem + 1024});
  const Seen seen = read_all(faulty);
  EXPECT_EQ(seen.items, kCount);
  EXPECT_EQ(seen.unreadable, std::vector<size_t>{1234});
}

TEST(ReadAhead, WhatTheVisitThrowsComesOut) {
  io::Lanes lanes(2);
  auto memory = items(2000);
  const auto visit = [](size_t i, Bytes, const std::string&) {
    if (i == 700) fail(ErrorKind::kCancelled, "enough");
    return nothing();
  };
  const auto work = [&] {
    lanes.run(read_ahead(
        {.file = *memory, .item_bytes = kItem, .count = 2000, .lane = &lanes.lane(1)},
        [](size_t i) { return i * kItem; }, visit));
  };
  EXPECT_THROW(work(), Error);
}

}  // namespace
}  // namespace cofre::qcow2
