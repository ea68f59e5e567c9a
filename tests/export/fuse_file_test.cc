// A disk image as a file, without a kernel: sizes, holes, space, and writes while space is reserved.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <random>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "export/fuse/image_file.h"
#include "io/simulated_reactor.h"
#include "layer/filter.h"
#include "storage/memory.h"

namespace cofre::fuse {
namespace {

constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kDiskBytes = 64 * kBlockBytes + kSectorBytes;  // the last block is a short one

// A disk that knows which of its blocks it stores; the others read as zeros.
class SparseDisk final : public layer::Filter {
 public:
  SparseDisk()
      : Filter(std::make_unique<storage::MemoryDevice>(kDiskBytes)),
        stored_((kDiskBytes + kBlockBytes - 1) / kBlockBytes) {}

  bool stored(size_t block) const { return stored_[block]; }
  std::optional<uint64_t> allocated_bytes() const override {
    return std::ranges::count(stored_, true) * kBlockBytes;
  }

  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override {
    co_await inner().write(offset, source, flags);
    durable_ = durable_ || flags.fua;
    mark(offset, source.size(), true);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override {
    co_await inner().write_zeroes(offset, length, flags);
    const uint64_t first = (offset + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    const uint64_t end =
        offset + length == kDiskBytes ? kDiskBytes : (offset + length) / kBlockBytes * kBlockBytes;
    if (flags.may_unmap && end > first) mark(first, end - first, false);
  }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    co_await io::yield();
    const bool data = stored_[offset / kBlockBytes];
    uint64_t end = offset;
    while (end < offset + length && stored_[end / kBlockBytes] == data) end += kSectorBytes;
    co_return block::Extent{.length_bytes = end - offset, .allocated = data, .zero = !data, .data = data};
  }
  bool took_durable_write() const { return durable_; }

 private:
  void mark(uint64_t offset, uint64_t length, bool stored) {
    for (uint64_t block = offset / kBlockBytes; block * kBlockBytes < offset + length; ++block)
      stored_[block] = stored;
  }
  std::vector<bool> stored_;
  bool durable_ = false;
};

bool never() {
  return false;
}

class Files : public ::testing::Test {
 protected:
  Files()
      : seed_(test_seed()),
        reactor_(seed_),
        trace_(__FILE__, __LINE__, fmt::format("COFRE_TEST_SEED={}", seed_)) {}

  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  template <typename T>
  int errno_of(io::task<T> work) {
    try {
      run(std::move(work));
    } catch (const Error& error) {
      return error.errno_value();
    }
    return 0;
  }
  int errno_of_change(ImageFile& file, AttributeChange change) {
    try {
      file.change_attributes(change);
    } catch (const Error& error) {
      return error.errno_value();
    }
    return 0;
  }
  void fill(uint64_t offset, uint64_t length, uint8_t value) {
    const std::vector<std::byte> bytes(length, std::byte{value});
    ASSERT_EQ(run(file_.write(offset, bytes, false)), length);
  }
  std::vector<std::byte> content() {
    std::vector<std::byte> bytes(kDiskBytes);
    EXPECT_EQ(run(file_.read(0, bytes)), kDiskBytes);
    return bytes;
  }

  const uint64_t seed_;
  io::SimulatedReactor reactor_;
  const ::testing::ScopedTrace trace_;
  SparseDisk disk_;
  ImageFile file_{{.name = "file", .device = &disk_}};
};

TEST_F(Files, EndsWhereTheDiskEnds) {
  const std::vector<std::byte> source(1000, std::byte{7});
  std::vector<std::byte> into(1000);
  EXPECT_EQ(run(file_.write(kDiskBytes - 10, source, false)), 10);
  EXPECT_EQ(errno_of(file_.write(kDiskBytes, source, false)), EFBIG);
  EXPECT_EQ(errno_of(file_.write(UINT64_MAX - 10, source, false)), EFBIG);
  EXPECT_EQ(run(file_.read(kDiskBytes - 10, into)), 10);
  EXPECT_EQ(into[9], std::byte{7});
  EXPECT_EQ(run(file_.read(kDiskBytes, into)), 0);
  EXPECT_EQ(run(file_.read(UINT64_MAX, into)), 0);
}

TEST_F(Files, KeepsItsSize) {
  EXPECT_EQ(errno_of_change(file_, {.size_bytes = kDiskBytes}), 0);
  EXPECT_EQ(errno_of_change(file_, {.size_bytes = kDiskBytes - 1}), EPERM);
  EXPECT_EQ(errno_of_change(file_, {.size_bytes = kDiskBytes + 1}), EFBIG);
  EXPECT_EQ(errno_of_change(file_, {.mode = S_IFREG | 0400, .uid = file_.attributes().st_uid + 1}), EPERM);
  EXPECT_EQ(file_.attributes().st_mode, S_IFREG | 0600);  // all or nothing
  EXPECT_EQ(errno_of_change(file_, {.mode = S_IFREG | S_ISUID | 0640}), 0);
  EXPECT_EQ(file_.attributes().st_mode, S_IFREG | 0640);
  EXPECT_EQ(file_.attributes().st_size, kDiskBytes);
}

TEST_F(Files, TellsWhatIsAllocated) {
  EXPECT_EQ(file_.attributes().st_blocks, 0);
  fill(100, 2 * kBlockBytes, 1);
  EXPECT_EQ(file_.attributes().st_blocks, 3 * kBlockBytes / 512);
}

TEST_F(Files, ReadOnlyIsReadOnly) {
  ImageFile file({.name = "file", .device = &disk_, .read_only = true});
  const std::vector<std::byte> source(10);
  EXPECT_EQ(errno_of(file.write(0, source, false)), EROFS);
  EXPECT_EQ(errno_of(file.allocate(FALLOC_FL_ZERO_RANGE, 0, 10, &never)), EROFS);
  EXPECT_EQ(errno_of_change(file, {.mode = S_IFREG | 0600}), EROFS);
  EXPECT_EQ(file.attributes().st_mode, S_IFREG | 0400);
}

TEST_F(Files, DurableWritesAreAskedFor) {
  fill(0, 10, 1);
  EXPECT_FALSE(disk_.took_durable_write());
  const std::vector<std::byte> source(10);
  run(file_.write(0, source, true));
  EXPECT_TRUE(disk_.took_durable_write());
}

TEST_F(Files, FindsDataAndHoles) {
  EXPECT_EQ(run(file_.seek(5, SEEK_HOLE, &never)), 5);
  EXPECT_EQ(errno_of(file_.seek(0, SEEK_DATA, &never)), ENXIO);
  fill(10 * kBlockBytes, 3 * kBlockBytes, 1);
  EXPECT_EQ(run(file_.seek(7, SEEK_DATA, &never)), 10 * kBlockBytes);
  EXPECT_EQ(run(file_.seek(11 * kBlockBytes + 7, SEEK_DATA, &never)), 11 * kBlockBytes + 7);
  EXPECT_EQ(run(file_.seek(11 * kBlockBytes + 7, SEEK_HOLE, &never)), 13 * kBlockBytes);
  EXPECT_EQ(errno_of(file_.seek(13 * kBlockBytes, SEEK_DATA, &never)), ENXIO);
  fill(kDiskBytes - 1, 1, 1);
  EXPECT_EQ(run(file_.seek(kDiskBytes - 1, SEEK_HOLE, &never)), kDiskBytes);  // the end is one
  EXPECT_EQ(errno_of(file_.seek(kDiskBytes, SEEK_HOLE, &never)), ENXIO);
  EXPECT_EQ(errno_of(file_.seek(0, SEEK_SET, &never)), EINVAL);
  EXPECT_EQ(errno_of(file_.seek(0, SEEK_DATA, [] { return true; })), EINTR);
}

TEST_F(Files, PunchesHolesAndZeroes) {
  fill(0, kDiskBytes, 9);
  run(file_.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kBlockBytes, kBlockBytes, &never));
  EXPECT_FALSE(disk_.stored(1));
  run(file_.allocate(FALLOC_FL_ZERO_RANGE, 4 * kBlockBytes, kBlockBytes, &never));
  EXPECT_TRUE(disk_.stored(4));
  run(file_.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 60 * kBlockBytes, kGiB,
                     &never));  // past the end
  std::vector<std::byte> expected(kDiskBytes, std::byte{9});
  std::fill_n(expected.begin() + kBlockBytes, kBlockBytes, std::byte{0});
  std::fill_n(expected.begin() + 4 * kBlockBytes, kBlockBytes, std::byte{0});
  std::fill(expected.begin() + 60 * kBlockBytes, expected.end(), std::byte{0});
  EXPECT_EQ(content(), expected);
}

TEST_F(Files, RefusesOtherKindsOfSpace) {
  EXPECT_EQ(errno_of(file_.allocate(FALLOC_FL_PUNCH_HOLE, 0, 1, &never)), EOPNOTSUPP);
  EXPECT_EQ(errno_of(file_.allocate(FALLOC_FL_COLLAPSE_RANGE, 0, kBlockBytes, &never)), EOPNOTSUPP);
  EXPECT_EQ(errno_of(file_.allocate(0, 1, kDiskBytes, &never)), EFBIG);
  EXPECT_EQ(errno_of(file_.allocate(FALLOC_FL_ZERO_RANGE, UINT64_MAX, 2, &never)), EFBIG);
  EXPECT_EQ(errno_of(file_.allocate(FALLOC_FL_KEEP_SIZE, UINT64_MAX - 1, 1, &never)), 0);
  ImageFile shared({.name = "file", .device = &disk_, .only_writer = false});
  EXPECT_EQ(errno_of(shared.allocate(0, 0, 1, &never)), EOPNOTSUPP);
}

TEST_F(Files, ReservesSpaceAndKeepsTheContent) {
  fill(5 * kBlockBytes, kBlockBytes, 3);
  const std::vector<std::byte> before = content();
  run(file_.allocate(0, 100, 10 * kBlockBytes, &never));
  for (size_t block = 0; block <= 10; ++block) EXPECT_TRUE(disk_.stored(block)) << block;
  EXPECT_FALSE(disk_.stored(11));
  run(file_.allocate(FALLOC_FL_KEEP_SIZE, 0, kGiB, &never));
  EXPECT_EQ(file_.attributes().st_blocks * 512, 65 * kBlockBytes);
  EXPECT_EQ(content(), before);
}

// Each block once: what is lost then is not written again.
io::task<void> write_some(ImageFile& file, uint64_t seed, uint64_t first_block,
                          std::vector<std::byte>& model) {
  std::mt19937_64 random(seed);
  for (uint64_t block = first_block; block < first_block + 8; ++block) {
    for (uint64_t turns = random() % 8; turns > 0; --turns) co_await io::yield();
    const std::vector<std::byte> bytes = random_bytes(random, 1 + random() % kBlockBytes);
    co_await file.write(block * kBlockBytes, bytes, false);
    std::ranges::copy(bytes, model.begin() + static_cast<ptrdiff_t>(block * kBlockBytes));
  }
}

io::task<void> reserve_some(ImageFile& file, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20; ++i) {
    for (uint64_t turns = random() % 4; turns > 0; --turns) co_await io::yield();
    co_await file.allocate(FALLOC_FL_KEEP_SIZE, random() % kDiskBytes, 1 + random() % (4 * kBlockBytes),
                           &never);
  }
}

io::task<void> write_and_reserve(ImageFile& file, uint64_t seed, std::vector<std::byte>& model) {
  io::TaskGroup group;
  for (uint64_t i = 0; i < 8; ++i) group.spawn(write_some(file, seed + i, 8 * i, model));
  group.spawn(reserve_some(file, seed + 100));
  group.spawn(reserve_some(file, seed + 101));
  co_await group.join();
}

TEST_F(Files, NoWriteIsLostWhileSpaceIsReserved) {
  for (uint64_t round = 0; round < 50; ++round) {
    fill(0, kDiskBytes, 0);
    run(file_.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kDiskBytes, &never));
    std::vector<std::byte> model = content();
    run(write_and_reserve(file_, seed_ + round * 1000, model));
    EXPECT_EQ(content(), model);
  }
}

}  // namespace
}  // namespace cofre::fuse
