// Rebase and commit on random chains, plain and encrypted: what the top shows never changes, whatever moment
// the power goes at, and wherever a rebase is cancelled.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "job/chain_store.h"
#include "job/commit.h"
#include "job/rebase.h"
#include "layer/record.h"
#include "storage/memory.h"

namespace cofre::job {
namespace {

using test::ChainStore;
using test::Content;

constexpr uint64_t kMostBytes = 200 * kKiB;
constexpr int kRounds = 80;

constexpr int rounds() {
#ifdef NDEBUG
  return kRounds;
#else
  return kRounds / 10;
#endif
}

std::unique_ptr<layer::RecordDevice> recorded(const std::string& name, const Content& bytes) {
  auto device = std::make_unique<storage::MemoryDevice>(bytes.size(), name);
  device->content() = bytes;
  device->mutable_limits().growable = true;
  return std::make_unique<layer::RecordDevice>(std::move(device), bytes);
}

// "old" chain: c0 <- c1 <- c2 (the top), and another of one or two images: d0 <- d1.
void make_chains(ChainStore& store) {
  store.make_random("c0", "", kMostBytes);
  store.make_random("c1", "c0", kMostBytes);
  store.make_random("c2", "c1", kMostBytes);
  store.make_random("d0", "", kMostBytes);
  store.make_random("d1", "d0", kMostBytes);
}

struct RebaseRun {
  std::string new_name;  // empty: none
  RebaseOptions options;

  // What the tool does: compare and write, then name the new backing file.
  void perform(ChainStore& store, block::Device& file) {
    std::vector<qcow2::Image*> chain;
    auto top = store.open("c2", {{"c2", &file}}, &chain);
    std::unique_ptr<qcow2::Image> other;
    if (new_name == "c0" || new_name == "c1") {
      options.new_backing = chain[new_name == "c1" ? 1 : 2];
      options.new_is_below = true;
    } else if (!new_name.empty()) {
      other = store.open(new_name, {});
      options.new_backing = other.get();
    }
    options.grain_bytes = top->header().subcluster_bytes();
    store.run(rebase_on({&store.reactor}, *top, options));
    store.run(top->change_backing(new_name, "qcow2"));
    store.run(top->close());
  }
};

RebaseRun random_rebase(ChainStore& store) {
  static const char* const kNames[] = {"", "c0", "c1", "d0", "d1"};
  RebaseRun run{.new_name = kNames[store.random() % 5], .options = {}};
  run.options.parallel = 1 + static_cast<unsigned>(store.random() % 4);
  return run;
}

void rebase_and_lose_power(uint64_t seed) {
  ChainStore store(seed);
  make_chains(store);
  const Content expected = store.content("c2");
  RebaseRun run = random_rebase(store);
  const auto file = recorded("c2", store.files["c2"]);
  run.perform(store, *file);
  const uint64_t end = file->moments();
  for (int i = 0; i < 12; ++i) {
    const uint64_t moment = i == 0 ? end : store.random() % (end + 1);
    const Content left = file->replay(moment, store.random)->content();
    ASSERT_TRUE(store.content("c2", {{"c2", left}}) == expected)
        << "rebase to '" << run.new_name << "', moment " << moment << " of " << end;
    store.expect_sound("c2", left);
  }
  const auto last = store.open("c2", {{"c2", file.get()}});
  EXPECT_EQ(last->header().backing_file.value_or(""), run.new_name);
}

TEST(Rebase, TheTopShowsTheSameAtEveryMoment) {
  const uint64_t seed = test_seed();
  for (int i = 0; i < rounds(); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i);
    rebase_and_lose_power(seed + static_cast<uint64_t>(i));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Rebase, CancelledItLeavesTheTopAsItWas) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  ChainStore store(seed);
  store.make("c0", 8 * kMiB, "", {.cluster_bits = 16});
  store.make("c1", 8 * kMiB, "c0", {.cluster_bits = 16});
  store.make("c2", 8 * kMiB, "c1", {.cluster_bits = 16});
  const Content expected = store.content("c2");
  bool cancelled = true;
  uint64_t questions = 0;
  for (uint64_t patience = 0; cancelled; ++patience) {
    RebaseRun run{.new_name = "", .options = {}};
    questions = 0;
    run.options.progress.cancelled = [&] { return questions++ == patience; };
    const auto file = recorded("c2", store.files["c2"]);
    try {
      run.perform(store, *file);
      cancelled = false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCancelled) << error.what();
    }
    const Content left = file->replay(file->moments(), store.random)->content();
    ASSERT_TRUE(store.content("c2", {{"c2", left}}) == expected);
    ASSERT_EQ(store.open("c2", {{"c2", file.get()}})->header().backing_file.has_value(), cancelled);
  }
  EXPECT_GT(questions, 2u);
}

// Commits the top into one of the images below, as the tool does. `before_emptying` gets the base's moments
// at that time.
void perform_commit(ChainStore& store, const std::string& base_name, layer::RecordDevice& top_file,
                    layer::RecordDevice& base_file, uint64_t& before_emptying) {
  std::vector<qcow2::Image*> chain;
  auto top = store.open("c2", {{"c2", &top_file}, {base_name, &base_file}}, &chain);
  qcow2::Image& base = *chain[base_name == "c1" ? 1 : 2];
  CommitOptions options;
  options.parallel = 1 + static_cast<unsigned>(store.random() % 4);
  store.run(commit_on({&store.reactor}, *top, base, options));
  before_emptying = base_file.moments();
  if (base_name == "c1") store.run(top->make_empty());
  store.run(top->close());
}

void commit_and_lose_power(uint64_t seed) {
  ChainStore store(seed);
  make_chains(store);
  const Content expected = store.content("c2");
  const std::string base_name = store.random() % 3 == 0 ? "c0" : "c1";
  const auto top_file = recorded("c2", store.files["c2"]);
  const auto base_file = recorded(base_name, store.files[base_name]);
  uint64_t before_emptying = 0;
  perform_commit(store, base_name, *top_file, *base_file, before_emptying);
  const auto expect_intact = [&](uint64_t top_moment, uint64_t base_moment) {
    const Content top = top_file->replay(top_moment, store.random)->content();
    const Content base = base_file->replay(base_moment, store.random)->content();
    ASSERT_TRUE(store.content("c2", {{"c2", top}, {base_name, base}}) == expected)
        << "moment " << top_moment << " of the top, " << base_moment << " of '" << base_name << "'";
    store.expect_sound("c2", top);
    store.expect_sound(base_name, base);
  };
  for (int i = 0; i < 8; ++i) {
    expect_intact(0, store.random() % (before_emptying + 1));
    expect_intact(store.random() % (top_file->moments() + 1), before_emptying);
    if (testing::Test::HasFailure()) return;
  }
  expect_intact(top_file->moments(), base_file->moments());
  // Committed: the base alone shows it, as far as it has not more.
  Content alone = store.content(
      base_name, {{base_name, base_file->replay(base_file->moments(), store.random)->content()}});
  ASSERT_GE(alone.size(), expected.size());
  alone.resize(expected.size());
  EXPECT_TRUE(alone == expected);
}

TEST(Commit, TheTopShowsTheSameAtEveryMoment) {
  const uint64_t seed = test_seed();
  for (int i = 0; i < rounds(); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i);
    commit_and_lose_power(seed + static_cast<uint64_t>(i));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Commit, TheTopIsEmptyAfterwards) {
  ChainStore store(test_seed());
  store.make("c1", kMiB, "", {});
  store.make("c2", kMiB, "c1", {});
  const auto top_file = recorded("c2", store.files["c2"]);
  auto top = store.open("c2", {{"c2", top_file.get()}});
  store.run(top->write(0, Content(kMiB, std::byte{5})));
  store.run(top->make_empty());
  const block::Extent extent = store.run(top->map(0, kMiB));
  EXPECT_FALSE(extent.allocated);
  EXPECT_EQ(extent.length_bytes, kMiB);
  // What was given up is there to be taken again.
  store.run(top->close());
  const uint64_t length = top_file->length_bytes();
  top = store.open("c2", {{"c2", top_file.get()}});
  store.run(top->write(0, Content(kMiB / 2, std::byte{6})));
  store.run(top->close());
  EXPECT_EQ(top_file->length_bytes(), length);
}

TEST(Commit, KeepsToARate) {
  ChainStore store(test_seed());
  store.make("c1", 4 * kMiB, "", {.cluster_bits = 16});
  store.make("c2", 4 * kMiB, "c1", {.cluster_bits = 16});
  const auto top_file = recorded("c2", store.files["c2"]);
  const auto base_file = recorded("c1", store.files["c1"]);
  std::vector<qcow2::Image*> chain;
  auto top = store.open("c2", {{"c2", top_file.get()}, {"c1", base_file.get()}}, &chain);
  store.run(top->write(0, Content(4 * kMiB, std::byte{5})));
  CommitOptions options;
  options.bytes_per_second = 40 * kMiB;
  const ConvertStats stats = store.run(commit_on({&store.reactor}, *top, *chain[1], options));
  EXPECT_EQ(stats.bytes_written, 4 * kMiB);
  // The last of four chunks waits until three are paid for. Sleeping may take longer, never less.
  EXPECT_GE(stats.seconds, 0.07);
}

}  // namespace
}  // namespace cofre::job
