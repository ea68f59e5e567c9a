// O_DIRECT: alignment, unaligned buffers, ends that are not a multiple of a block. Where the file system of
// the working directory does not do direct I/O, opening must say so.
#include <gmock/gmock.h>

#include <fstream>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "block/checked.h"
#include "io/sync.h"
#include "layer/align.h"
#include "storage/on_backend.h"

namespace cofre::storage {
namespace {

class Direct : public StorageTest {
 protected:
  // Null, having checked the error, if there is no direct I/O here.
  std::unique_ptr<FileDevice> create() {
    try {
      return FileDevice::create(path_, {.direct = true}, /*truncate=*/true);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
      return nullptr;
    }
  }
  std::string path_ = scratch_.file("image");
};
INSTANTIATE_TEST_SUITE_P(Storage, Direct, testing::ValuesIn(io::backend_names()),
                         [](const auto& param) { return param.param; });

TEST_P(Direct, TellsItsAlignment) {
  auto file = create();
  if (!file) return;
  const uint32_t alignment = file->limits().request_alignment;
  EXPECT_GE(alignment, 512u);
  EXPECT_LE(alignment, 65536u);
  EXPECT_TRUE(std::has_single_bit(alignment));
  EXPECT_TRUE(std::has_single_bit(file->limits().memory_alignment));
  // The kernel agrees: what is so aligned needs no help.
  AlignedBuffer buffer(alignment);
  std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{4});
  EXPECT_EQ(pwrite(file->fd(), buffer.data(), alignment, alignment), static_cast<ssize_t>(alignment));
}

TEST_P(Direct, AnyMemoryAndAnyEnd) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto created = create();
  if (!created) return;
  auto file = block::make_checked(std::move(created));
  const uint64_t block = file->limits().request_alignment;
  const uint64_t length = 100 * block + 77;
  auto bytes = random_bytes(random, length + 1);
  const auto source = ConstBytes(bytes).subspan(1);  // odd memory
  run(file->resize(length));
  run(file->write(0, source));
  EXPECT_EQ(file->length_bytes(), length);
  EXPECT_EQ(std::filesystem::file_size(path_), length);
  run(file->write(100 * block, source.subspan(100 * block)));  // the end alone
  EXPECT_EQ(std::filesystem::file_size(path_), length);
  std::vector<std::byte> got(length + 3);
  run(file->read(0, Bytes(got).subspan(3)));
  EXPECT_TRUE(std::equal(source.begin(), source.end(), got.begin() + 3));
  AlignedBuffer aligned(length);
  run(file->read(0, aligned.bytes()));
  EXPECT_TRUE(std::equal(source.begin(), source.end(), aligned.data()));
  run(file->write_zeroes(99 * block, block + 77));
  EXPECT_THAT(read(*file, 99 * block, block + 77), testing::Each(std::byte{0}));
  run(file->close());
  EXPECT_EQ(std::filesystem::file_size(path_), length);
}

TEST_P(Direct, ReadsAcrossAnOddEndGiveZeroes) {
  auto file = create();
  if (!file) return;
  const uint64_t block = file->limits().request_alignment;
  {
    std::ofstream(path_) << std::string(block + 10, 'x');
  }
  AlignedBuffer got(4 * block);
  std::fill(got.bytes().begin(), got.bytes().end(), std::byte{0xee});
  run(file->read(0, got.bytes()));
  for (uint64_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got.data()[i], i < block + 10 ? std::byte{'x'} : std::byte{0}) << i;
}

// A write that ends off a block's end is padded and the padding cut off: not with what others append
// meanwhile.
io::task<void> end_beside_appends(FileDevice& file, Bytes odd_end, ConstBytes appended, uint64_t block) {
  io::TaskGroup group;
  group.spawn(file.write(0, odd_end));
  group.spawn(file.write(2 * block, appended));
  group.spawn(file.write(3 * block, appended));
  co_await group.join();
}
TEST_P(Direct, CuttingThePaddingSparesAppendsInFlight) {
  const uint64_t first_seed = test_seed();
  for (uint64_t seed = first_seed; seed < first_seed + 30; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    if (GetParam() == "simulated") reactor_ = std::make_unique<io::SimulatedReactor>(seed);
    auto file = create();
    if (!file) return;
    const uint64_t block = file->limits().request_alignment;
    std::vector<std::byte> odd_end(block + 5, std::byte{1});
    run(file->resize(odd_end.size()));
    AlignedBuffer appended(block);
    std::fill(appended.bytes().begin(), appended.bytes().end(), std::byte{2});
    run(end_beside_appends(*file, odd_end, appended.bytes(), block));
    EXPECT_EQ(std::filesystem::file_size(path_), 4 * block);
    EXPECT_THAT(read(*file, 2 * block, 2 * block), testing::Each(std::byte{2}));
    EXPECT_EQ(read(*file, 0, odd_end.size()), odd_end);
    run(file->close());
  }
}

TEST_P(Direct, TheAligningLayerGivesEveryByte) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto created = create();
  if (!created) return;
  auto file = layer::make_aligning(block::make_checked(std::move(created)), 1);
  std::vector<std::byte> model;
  for (int i = 0; i < 200; ++i) {
    const uint64_t offset = random() % 40'000;
    const auto bytes = random_bytes(random, 1 + random() % (i % 20 == 0 ? 200'000 : 3'000));
    if (offset + bytes.size() > model.size()) model.resize(offset + bytes.size());
    std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<ptrdiff_t>(offset));
    run(file->write(offset, bytes));
    ASSERT_EQ(file->length_bytes(), model.size());
  }
  EXPECT_EQ(read(*file, 0, model.size()), model);
  EXPECT_EQ(read(*file, 12'345, 6'789),
            std::vector<std::byte>(model.begin() + 12'345, model.begin() + 12'345 + 6'789));
  run(file->close());
  EXPECT_EQ(std::filesystem::file_size(path_), model.size());
}

}  // namespace
}  // namespace cofre::storage
