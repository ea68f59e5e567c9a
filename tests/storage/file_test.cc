// Files through the page cache: ends, holes, zeroes, sizes, errors.
#include "storage/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "block/checked.h"
#include "io/lanes.h"
#include "io/sync.h"
#include "storage/on_backend.h"

namespace cofre::storage {
namespace {

using testing::Each;
using testing::HasSubstr;

class File : public StorageTest {
 protected:
  std::string path_ = scratch_.file("image");
};
INSTANTIATE_TEST_SUITE_P(Storage, File, testing::ValuesIn(io::backend_names()),
                         [](const auto& param) { return param.param; });

std::vector<std::byte> filled(size_t size, uint8_t value) {
  return std::vector<std::byte>(size, std::byte{value});
}

template <typename Work>
Error error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorKind::kIo, "");
}

TEST_P(File, WritesExtendAndReadsPastTheEndGiveZeroes) {
  auto file = FileDevice::create(path_, {});
  EXPECT_EQ(file->length_bytes(), 0u);
  run(file->write(100, filled(50, 7)));
  EXPECT_EQ(file->length_bytes(), 150u);
  const auto got = read(*file, 90, 200);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], std::byte{i >= 10 && i < 60 ? uint8_t{7} : uint8_t{0}}) << i;
  EXPECT_THAT(read(*file, 1 << 20, 10), Each(std::byte{0}));
  run(file->close());
  EXPECT_EQ(std::filesystem::file_size(path_), 150u);
}

TEST_P(File, KeepsWhatItWasGiven) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto bytes = random_bytes(random, 3'000'001);
  {
    auto file = block::make_checked(FileDevice::create(path_, {}));
    run(file->write(0, bytes, {.fua = true}));
    run(file->flush());
    run(file->close());
  }
  auto file = FileDevice::open(path_, {.read_only = true});
  EXPECT_EQ(read(*file, 0, bytes.size()), bytes);
  run(file->flush());  // of a file that cannot have changed
  run(file->close());
}

TEST(FileSimulated, ShortTransfersAreFinished) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto bytes = random_bytes(random, 100'000);
  io::SimulatedReactor reactor(seed, /*short_transfers=*/true);
  const ScratchDir scratch;
  auto file = FileDevice::create(scratch.file("image"), {});
  reactor.run_until_done(file->write(3, bytes));
  std::vector<std::byte> got(bytes.size() + 100);
  reactor.run_until_done(file->read(3, got));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), got.begin()));
  EXPECT_TRUE(is_zero(ConstBytes(got).subspan(bytes.size())));
}

TEST_P(File, MapShowsHoles) {
  auto file = FileDevice::create(path_, {});
  run(file->resize(4 * kMiB));
  run(file->write(kMiB, filled(kMiB, 1)));
  block::Extent hole = run(file->map(0, 4 * kMiB));
  EXPECT_EQ(hole.length_bytes, kMiB);
  EXPECT_TRUE(hole.zero);
  EXPECT_FALSE(hole.data);
  EXPECT_TRUE(hole.allocated);
  block::Extent data = run(file->map(kMiB + 4096, 4 * kMiB));
  EXPECT_EQ(data.length_bytes, kMiB - 4096);
  EXPECT_FALSE(data.zero);
  EXPECT_TRUE(data.data);
  EXPECT_EQ(data.host_offset, kMiB + 4096);
  EXPECT_EQ(data.host_name, path_);
  block::Extent rest = run(file->map(2 * kMiB, 100));
  EXPECT_EQ(rest.length_bytes, 100u);
  EXPECT_TRUE(rest.zero);
  rest = run(file->map(3 * kMiB, kMiB));
  EXPECT_EQ(rest.length_bytes, kMiB);
  EXPECT_LT(*file->allocated_bytes(), 2 * kMiB);
}

TEST_P(File, ACharacterDeviceTakesNoImage) {
  EXPECT_EQ(error_of([&] { FileDevice::open("/dev/null", {}); }).kind(), ErrorKind::kInvalidArgument);
}

TEST_P(File, MapSeesHolesMadeInKnownData) {
  auto file = FileDevice::create(path_, {});
  run(file->write(0, filled(4 * kMiB, 1)));
  EXPECT_EQ(run(file->map(0, 4 * kMiB)).length_bytes, 4 * kMiB);
  EXPECT_EQ(run(file->map(kMiB, kMiB)).length_bytes, kMiB);
  run(file->write_zeroes(kMiB, kMiB, {.may_unmap = true}));
  EXPECT_EQ(run(file->map(0, 4 * kMiB)).length_bytes, kMiB);
  EXPECT_TRUE(run(file->map(kMiB, kMiB)).zero);
  EXPECT_EQ(run(file->map(2 * kMiB, 4 * kMiB)).length_bytes, 2 * kMiB);
  run(file->discard(3 * kMiB, kMiB));
  EXPECT_EQ(run(file->map(2 * kMiB, 4 * kMiB)).length_bytes, kMiB);
  run(file->resize(2 * kMiB + 4096));
  run(file->resize(4 * kMiB));
  EXPECT_EQ(run(file->map(2 * kMiB, 4 * kMiB)).length_bytes, 4096u);
}

TEST_P(File, WriteZeroesZeroesAndMayUnmap) {
  auto file = FileDevice::create(path_, {});
  run(file->write(0, filled(2 * kMiB, 9)));
  run(file->flush());
  const uint64_t before = *file->allocated_bytes();
  run(file->write_zeroes(100'000, 1'000'001, {.may_unmap = true}));
  EXPECT_THAT(read(*file, 100'000, 1'000'001), Each(std::byte{0}));
  EXPECT_THAT(read(*file, 0, 100'000), Each(std::byte{9}));
  EXPECT_THAT(read(*file, 1'100'001, 2 * kMiB - 1'100'001), Each(std::byte{9}));
  EXPECT_LT(*file->allocated_bytes(), before);
  run(file->write_zeroes(0, 50'000, {.fua = true}));
  EXPECT_THAT(read(*file, 0, 100), Each(std::byte{0}));
  EXPECT_EQ(file->length_bytes(), 2 * kMiB);
}

TEST_P(File, WriteZeroesExtends) {
  for (const bool may_unmap : {false, true}) {
    auto file = FileDevice::create(path_, {}, /*truncate=*/true);
    run(file->write(0, filled(1000, 9)));
    run(file->write_zeroes(500, 5000, {.may_unmap = may_unmap}));  // across the end
    EXPECT_EQ(file->length_bytes(), 5500u);
    run(file->write_zeroes(100'000, 1, {.may_unmap = may_unmap}));  // past it
    EXPECT_EQ(file->length_bytes(), 100'001u);
    EXPECT_EQ(std::filesystem::file_size(path_), 100'001u);
    EXPECT_THAT(read(*file, 0, 500), Each(std::byte{9}));
    EXPECT_THAT(read(*file, 500, 99'501), Each(std::byte{0}));
    run(file->close());
  }
}

TEST_P(File, DiscardGivesSpaceBackAndKeepsTheLength) {
  auto file = FileDevice::create(path_, {});
  run(file->write(0, filled(kMiB, 9)));
  run(file->flush());
  const uint64_t before = *file->allocated_bytes();
  run(file->discard(0, 2 * kMiB));
  run(file->discard(5 * kMiB, kMiB));
  EXPECT_EQ(file->length_bytes(), kMiB);
  EXPECT_LT(*file->allocated_bytes(), before);
}

TEST_P(File, Resizes) {
  auto file = FileDevice::create(path_, {});
  run(file->write(0, filled(1000, 9)));
  run(file->resize(500));
  EXPECT_EQ(file->length_bytes(), 500u);
  run(file->resize(2000));
  EXPECT_EQ(std::filesystem::file_size(path_), 2000u);
  EXPECT_THAT(read(*file, 500, 1500), Each(std::byte{0}));
  EXPECT_THAT(error_of([&] { run(file->resize(UINT64_MAX)); }).what(), HasSubstr(path_));
}

// Growing must not cut off what a write in flight has just put behind the new end.
io::task<void> zero_and_write(FileDevice& file, ConstBytes bytes, uint64_t offset) {
  io::TaskGroup group;
  group.spawn(file.write(offset + 4096, bytes));
  group.spawn(file.write_zeroes(offset, 100, {}));
  group.spawn(file.write_zeroes(offset + 1000, 100, {.may_unmap = true}));
  group.spawn(file.write(offset + 8192, bytes));
  co_await group.join();
}
TEST_P(File, GrowingBesideWritesLosesNothing) {
  const uint64_t first_seed = test_seed();
  const auto bytes = filled(4096, 5);
  for (uint64_t seed = first_seed; seed < first_seed + 50; ++seed) {
    SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
    if (GetParam() == "simulated") reactor_ = std::make_unique<io::SimulatedReactor>(seed);
    auto file = FileDevice::create(path_, {}, /*truncate=*/true);
    uint64_t offset = 0;
    for (int i = 0; i < 5; ++i, offset += 12288) run(zero_and_write(*file, bytes, offset));
    EXPECT_EQ(file->length_bytes(), offset);
    EXPECT_EQ(std::filesystem::file_size(path_), offset);
    for (uint64_t at = 0; at < offset; at += 12288) ASSERT_EQ(read(*file, at + 4096, 4096), bytes) << at;
    run(file->close());
  }
}

TEST_P(File, ErrorsNameThePath) {
  const Error missing = error_of([&] { FileDevice::open(path_, {}); });
  EXPECT_EQ(missing.kind(), ErrorKind::kNotFound);
  EXPECT_THAT(missing.what(), HasSubstr(path_));
  FileDevice::create(path_, {});
  EXPECT_EQ(error_of([&] { FileDevice::create(path_, {}); }).kind(), ErrorKind::kExists);
  const std::string folder = std::filesystem::path(path_).parent_path();
  EXPECT_EQ(error_of([&] { FileDevice::open(folder, {}); }).kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of([&] { FileDevice::open(folder, {.read_only = true}); }).kind(),
            ErrorKind::kInvalidArgument);
  const std::string fifo = scratch_.file("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { FileDevice::open(fifo, {.read_only = true}); }).what(), HasSubstr(fifo));

  auto file = FileDevice::open(path_, {.read_only = true});
  EXPECT_TRUE(file->limits().read_only);
  EXPECT_FALSE(file->limits().growable);
  EXPECT_EQ(error_of([&] { run(file->write(0, filled(1, 1))); }).kind(), ErrorKind::kReadOnly);
  EXPECT_EQ(error_of([&] { run(file->write_zeroes(0, 1)); }).kind(), ErrorKind::kReadOnly);
  EXPECT_EQ(error_of([&] { run(file->discard(0, 1)); }).kind(), ErrorKind::kReadOnly);
  EXPECT_EQ(error_of([&] { run(file->resize(1)); }).kind(), ErrorKind::kReadOnly);
}

TEST_P(File, OffsetsThatNoFileHasAreErrors) {
  auto file = FileDevice::create(path_, {});
  EXPECT_EQ(error_of([&] { run(file->write(uint64_t{1} << 63, filled(1, 1))); }).kind(), ErrorKind::kNoSpace);
  EXPECT_EQ(error_of([&] { run(file->write(UINT64_MAX, filled(2, 1))); }).kind(), ErrorKind::kNoSpace);
  EXPECT_EQ(error_of([&] { run(file->write_zeroes(5, UINT64_MAX)); }).kind(), ErrorKind::kNoSpace);
  EXPECT_EQ(file->length_bytes(), 0u);
  run(file->write_zeroes(10, 10));
  EXPECT_EQ(file->length_bytes(), 20u);
}

TEST_P(File, CreateEmptiesOnlyWhenTold) {
  {
    std::ofstream(path_) << "old content";
  }
  EXPECT_EQ(error_of([&] { FileDevice::create(path_, {}); }).kind(), ErrorKind::kExists);
  EXPECT_EQ(std::filesystem::file_size(path_), 11u);
  auto holder = FileDevice::open(path_, {.locks = FileLocks::format(false)});
  const FileOptions locked = {.locks = FileLocks::format(false)};
  EXPECT_EQ(error_of([&] { FileDevice::create(path_, locked, true); }).kind(), ErrorKind::kLocked);
  EXPECT_EQ(std::filesystem::file_size(path_), 11u);
  run(holder->close());
  auto file = FileDevice::create(path_, locked, true);
  EXPECT_EQ(file->length_bytes(), 0u);
  EXPECT_EQ(std::filesystem::file_size(path_), 0u);
}

TEST_P(File, KnowsWhichNamesAreOneFile) {
  auto file = FileDevice::create(path_, {});
  const std::string link = scratch_.file("link");
  std::filesystem::create_symlink(path_, link);
  EXPECT_TRUE(same_file(path_, link));
  EXPECT_EQ(file->identity(), FileDevice::open(link, {})->identity());
  const std::string other = scratch_.file("other");
  EXPECT_FALSE(same_file(path_, other));
  auto another = FileDevice::create(other, {});
  EXPECT_FALSE(same_file(path_, other));
  EXPECT_FALSE(file->identity() == another->identity());
}

TEST_P(File, AllModesWork) {
  for (const FileOptions& options :
       {FileOptions{.write_through = true}, FileOptions{.no_flush = true}, FileOptions{.blocking = true}}) {
    auto file = FileDevice::create(path_, options, /*truncate=*/true);
    run(file->write(0, filled(5000, 3), {.fua = true}));
    run(file->write_zeroes(0, 100, {.fua = true}));
    run(file->flush());
    run(file->close());
    EXPECT_EQ(std::filesystem::file_size(path_), 5000u);
  }
}

io::task<void> write_stripes(io::Lanes& lanes, block::Device& file, ConstBytes bytes, uint64_t piece) {
  io::TaskGroup group;
  for (uint64_t at = 0, i = 0; at < bytes.size(); at += piece, ++i)
    group.spawn_on(lanes.lane(static_cast<unsigned>(i % lanes.count())),
                   file.write(at, bytes.subspan(at, std::min(piece, bytes.size() - at))));
  co_await group.join();
}

class FileOnLanes : public File {};
INSTANTIATE_TEST_SUITE_P(Storage, FileOnLanes, testing::ValuesIn(io::backend_names(/*with_simulated=*/false)),
                         [](const auto& param) { return param.param; });

TEST_P(FileOnLanes, AnyLaneMayWrite) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto bytes = random_bytes(random, 1'234'567);
  io::Lanes lanes(3, GetParam() == "threads" ? io::Backend::kThreads : io::Backend::kIoUring);
  auto file = block::make_checked(FileDevice::create(path_, {}));
  lanes.run(write_stripes(lanes, *file, bytes, 10'007));
  EXPECT_EQ(file->length_bytes(), bytes.size());
  EXPECT_EQ(read(*file, 0, bytes.size()), bytes);
}

}  // namespace
}  // namespace cofre::storage
