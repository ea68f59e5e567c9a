#include "format/foreign/table_cache.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "io/simulated_reactor.h"
#include "storage/memory.h"

namespace cofre::foreign {
namespace {

class TableCacheTest : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  io::SimulatedReactor reactor_{1};
};

// More slices than are kept, in an order that comes back to each.
TEST_F(TableCacheTest, GivesWhatIsOnDisk) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  storage::MemoryDevice file(0);
  const std::vector<std::byte> bytes = random_bytes(random, 6 * kMiB + 20);
  run(file.resize(bytes.size()));
  file.content() = bytes;
  TableCache tables;
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t at = random() % (bytes.size() / 4) * 4;
    EXPECT_EQ(run(tables.load_le_entry<uint32_t>(file, at)), load_le<uint32_t>(bytes.data() + at));
    EXPECT_EQ(run(tables.load_be_entry<uint32_t>(file, at)), load_be<uint32_t>(bytes.data() + at));
  }
  const uint64_t last = bytes.size() - 4;
  EXPECT_EQ(run(tables.load_le_entry<uint32_t>(file, last)), load_le<uint32_t>(bytes.data() + last));
}

TEST_F(TableCacheTest, KeepsFilesApart) {
  storage::MemoryDevice one(4096);
  storage::MemoryDevice other(4096);
  one.content()[8] = std::byte{1};
  other.content()[8] = std::byte{2};
  TableCache tables;
  EXPECT_EQ(run(tables.load_le_entry<uint64_t>(one, 8)), 1U);
  EXPECT_EQ(run(tables.load_le_entry<uint64_t>(other, 8)), 2U);
}

TEST_F(TableCacheTest, EntriesPastTheEndAreCorruption) {
  storage::MemoryDevice file(4098);
  TableCache tables;
  for (const uint64_t at : {uint64_t{4096}, uint64_t{1} << 40, UINT64_MAX - 7}) {
    try {
      run(tables.load_le_entry<uint64_t>(file, at));
      ADD_FAILURE() << "read at " << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCorrupt) << error.what();
    }
  }
}

}  // namespace
}  // namespace cofre::foreign
