// The raw LUKS container as a device: against a model, against its own cipher, and over storage that
// misbehaves.
#include "format/luks/luks_container.h"

#include <algorithm>

#include "block/checked.h"
#include "failing_device.h"
#include "io/sync.h"
#include "luks_fixtures.h"
#include "storage/memory.h"

namespace cofre::luks {
namespace {

constexpr std::string_view kPassphrase = "hunter2";
constexpr uint64_t kPayload = 2068480;

// Containers over memory_, which outlives them.
class Container : public testing::Test {
 protected:
  std::unique_ptr<block::Device> storage(size_t good_operations = SIZE_MAX, bool count_reads = false) {
    return block::make_checked(std::make_unique<FailingDevice>(memory_, good_operations, count_reads));
  }
  std::unique_ptr<LuksContainer> create(uint64_t size_bytes) {
    return run(LuksContainer::create(storage(), quick_options(), as_bytes(kPassphrase), size_bytes));
  }
  std::unique_ptr<LuksContainer> open(std::unique_ptr<block::Device> below, bool read_only = false) {
    return run(LuksContainer::open(std::move(below), as_bytes(kPassphrase), read_only));
  }
  std::unique_ptr<LuksContainer> open() { return open(storage()); }
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  std::vector<std::byte> read(block::Device& device, uint64_t offset, size_t length) {
    std::vector<std::byte> bytes(length);
    run(device.read(offset, bytes));
    return bytes;
  }
  std::vector<std::byte> read_all(block::Device& device) { return read(device, 0, device.length_bytes()); }
  std::vector<std::byte> random_bytes(size_t size) { return random_bytes_of(random_, size); }

  io::SimulatedReactor reactor_{test_seed()};
  std::mt19937_64 random_{test_seed()};
  storage::MemoryDevice memory_{0, "disk.luks"};
};

TEST_F(Container, StoresTheCipherOfItsSectorsFromZero) {
  const std::unique_ptr<LuksContainer> container = create(4 * kMiB);
  EXPECT_EQ(container->length_bytes(), 4 * kMiB);
  EXPECT_EQ(memory_.length_bytes(), kPayload + 4 * kMiB);
  EXPECT_EQ(container->name(), "disk.luks");
  EXPECT_EQ(container->header().payload_offset_bytes(), kPayload);
  EXPECT_EQ(container->keyslot(), 0u);
  EXPECT_FALSE(container->cipher_implementation().empty());
  const std::vector<std::byte> plain = random_bytes(3 * kMiB + 512);
  const std::vector<std::byte> copy = plain;
  run(container->write(512, plain));
  EXPECT_EQ(plain, copy);  // the caller's buffer is the caller's

  const Luks1Volume volume = run(luks1_unlock(memory_, 0, 0, as_bytes(kPassphrase)));
  std::vector<std::byte> expected(plain.size());
  volume.make_cipher()->encrypt(1, plain, expected);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), memory_.content().begin() + kPayload + 512));
  EXPECT_EQ(read(*container, 512, plain.size()), plain);
  EXPECT_EQ(read(*container, kMiB, 512), std::vector(plain.begin() + kMiB - 512, plain.begin() + kMiB));
  run(container->close());
}

TEST_F(Container, OpensAgainWithThePassphraseOnly) {
  const std::vector<std::byte> plain = random_bytes(kMiB);
  run(create(kMiB)->write(0, plain));
  EXPECT_EQ(read_all(*open()), plain);
  expect_error(ErrorKind::kWrongSecret, "disk.luks",
               [&] { run(LuksContainer::open(storage(), as_bytes("wrong"), false)); });
}

// Random requests agree with a model, whatever the storage's alignment is.
TEST_F(Container, AgreesWithAModel) {
  for (const uint32_t alignment : {1u, 512u, 4096u}) {
    SCOPED_TRACE(alignment);
    run(memory_.resize(0));
    memory_.mutable_limits().request_alignment = alignment;
    const uint64_t unit = std::max(alignment, 512u);
    const std::unique_ptr<block::Device> device = block::make_checked(create(2 * kMiB));
    EXPECT_EQ(device->limits().request_alignment, unit);
    std::vector<std::byte> model(2 * kMiB);
    run(device->write_zeroes(0, model.size()));
    for (int round = 0; round < 200; ++round) {
      const uint64_t offset = random_() % (model.size() / unit) * unit;
      const uint64_t most = random_() % 4 == 0 ? model.size() : 16 * unit;
      const uint64_t length = std::min((random_() % (most / unit) + 1) * unit, model.size() - offset);
      const auto at = model.begin() + static_cast<ptrdiff_t>(offset);
      switch (random_() % 4) {
        case 0:
          run(device->write_zeroes(offset, length,
                                   {.fua = random_() % 2 == 0, .may_unmap = random_() % 2 == 0}));
          std::fill_n(at, length, std::byte{0});
          break;
        case 1: {
          const std::vector<std::byte> bytes = random_bytes(length);
          run(device->write(offset, bytes, {.fua = random_() % 2 == 0}));
          std::ranges::copy(bytes, at);
          break;
        }
        case 2:
          run(device->discard(offset, length));  // changes nothing
          break;
        default:
          ASSERT_TRUE(std::ranges::equal(read(*device, offset, length), std::span(at, length)));
      }
    }
    EXPECT_EQ(read_all(*device), model);
    run(device->close());
  }
}

TEST_F(Container, ManyRequestsAtOnce) {
  const std::unique_ptr<LuksContainer> container = create(8 * kMiB);
  const std::vector<std::byte> plain = random_bytes(8 * kMiB);
  std::vector<std::byte> back(plain.size());
  const auto all_at_once = [](block::Device& device, ConstBytes source, Bytes destination) -> io::task<void> {
    io::TaskGroup group;
    constexpr uint64_t kPiece = 700 * kKiB;
    for (uint64_t offset = 0; offset < device.length_bytes(); offset += kPiece) {
      const uint64_t length = std::min(kPiece, device.length_bytes() - offset);
      if (destination.empty())
        group.spawn(device.write(offset, source.subspan(offset, length)));
      else
        group.spawn(device.read(offset, destination.subspan(offset, length)));
    }
    co_await group.join();
  };
  run(all_at_once(*container, plain, {}));
  run(all_at_once(*container, {}, back));
  EXPECT_EQ(plain, back);
}

TEST_F(Container, GrowsByWritesWhereItsStorageDoes) {
  std::unique_ptr<LuksContainer> container = create(1000);
  EXPECT_EQ(container->length_bytes(), 1024u);
  EXPECT_TRUE(container->limits().growable);
  EXPECT_FALSE(container->limits().grows_with_zeroes);
  const std::vector<std::byte> plain = random_bytes(kMiB);
  run(container->write(1024, plain));
  run(container->write_zeroes(1024 + kMiB, 512));
  EXPECT_EQ(container->length_bytes(), 1536 + kMiB);
  EXPECT_EQ(read(*container, 1024, kMiB), plain);
  EXPECT_TRUE(is_zero(read(*container, 1024 + kMiB, 512)));
  expect_error(ErrorKind::kLimit, "beyond", [&] { run(container->write_zeroes(INT64_MAX - 511, 512)); });
}

TEST_F(Container, NewBytesOfAResizeAreZero) {
  for (const uint32_t alignment : {1u, 4096u}) {
    run(memory_.resize(0));
    memory_.mutable_limits().request_alignment = alignment;
    const std::unique_ptr<LuksContainer> container = create(kMiB - 512);
    const std::vector<std::byte> plain = random_bytes(kMiB - 512);
    run(container->write(0, plain));
    run(container->resize(3 * kMiB - 1));
    EXPECT_EQ(container->length_bytes(), 3 * kMiB);
    const std::vector<std::byte> content = read_all(*container);
    EXPECT_TRUE(std::equal(plain.begin(), plain.end(), content.begin()));
    EXPECT_TRUE(is_zero(ConstBytes(content).subspan(plain.size())));
    run(container->resize(4096));
    EXPECT_EQ(container->length_bytes(), 4096u);
    EXPECT_EQ(memory_.length_bytes(), kPayload + 4096);
    EXPECT_EQ(read_all(*container), std::vector(plain.begin(), plain.begin() + 4096));
    run(container->resize_sparse(8192));
    EXPECT_EQ(container->length_bytes(), 8192u);
    EXPECT_TRUE(is_zero(ConstBytes(memory_.content()).subspan(kPayload + 4096)));
  }
}

TEST_F(Container, AResizeThatFailsLeavesTheOldLength) {
  create(kMiB);
  const std::unique_ptr<LuksContainer> container = open(storage(2));
  expect_error(ErrorKind::kIo, "failed", [&] { run(container->resize(64 * kMiB)); });
  EXPECT_EQ(container->length_bytes(), kMiB);
  expect_error(ErrorKind::kLimit, "more than", [&] { run(container->resize(UINT64_MAX)); });
}

TEST_F(Container, AStorageThatEndsWithinASectorCountsAsWhole) {
  create(kMiB);
  run(memory_.resize(kPayload + 1000));
  const std::unique_ptr<LuksContainer> container = open();
  EXPECT_EQ(container->length_bytes(), 1024u);
  EXPECT_EQ(read_all(*container).size(), 1024u);
  const std::vector<std::byte> plain = random_bytes(512);
  run(container->write(512, plain));
  EXPECT_EQ(memory_.length_bytes(), kPayload + 1024);
  EXPECT_EQ(read(*container, 512, 512), plain);
}

TEST_F(Container, FitsItsSizeIntoTheStorage) {
  run(memory_.resize(16 * kMiB));
  EXPECT_EQ(create(kMiB)->length_bytes(), kMiB);  // a growable storage is cut
  run(memory_.resize(16 * kMiB));
  memory_.mutable_limits().growable = false;
  EXPECT_EQ(create(kMiB)->length_bytes(), 16 * kMiB - kPayload);  // another one is not
  memory_.mutable_limits().growable = true;
  expect_error(ErrorKind::kLimit, "disk.luks", [&] { create(UINT64_MAX); });
  expect_error(ErrorKind::kLimit, "disk.luks", [&] { create(INT64_MAX); });
}

TEST_F(Container, ReadOnlyRefusesToWrite) {
  run(create(kMiB)->write_zeroes(0, kMiB));
  const std::unique_ptr<LuksContainer> container = open(storage(), true);
  EXPECT_TRUE(container->limits().read_only);
  EXPECT_FALSE(container->limits().growable);
  EXPECT_TRUE(is_zero(read_all(*container)));
  const std::vector<std::byte> plain(512);
  expect_error(ErrorKind::kReadOnly, "disk.luks", [&] { run(container->write(0, plain)); });
  expect_error(ErrorKind::kReadOnly, "disk.luks", [&] { run(container->write_zeroes(0, 512)); });
  expect_error(ErrorKind::kReadOnly, "disk.luks", [&] { run(container->resize(512)); });
}

TEST_F(Container, LockedTellsTheHeaderAndNothingElse) {
  const Luks1Header header = create(kMiB)->header();
  const std::unique_ptr<LuksContainer> container = run(LuksContainer::open_locked(storage()));
  EXPECT_TRUE(container->locked());
  EXPECT_EQ(container->header(), header);
  EXPECT_EQ(container->length_bytes(), kMiB);
  EXPECT_EQ(container->keyslot(), std::nullopt);
  EXPECT_EQ(container->cipher_implementation(), "");
  expect_error(ErrorKind::kMissingSecret, "disk.luks", [&] { read(*container, 0, 512); });
  expect_error(ErrorKind::kMissingSecret, "disk.luks", [&] { run(container->write_zeroes(0, 512)); });
}

TEST_F(Container, MapsEverythingAsData) {
  const std::unique_ptr<LuksContainer> container = create(kMiB);
  const block::Extent extent = run(container->map(4096, 2 * kMiB));
  EXPECT_EQ(extent.length_bytes, kMiB - 4096);
  EXPECT_TRUE(extent.allocated && extent.data);
  EXPECT_FALSE(extent.zero || extent.compressed);
  EXPECT_EQ(extent.host_offset, std::nullopt);  // what rests in the file is not what is read
}

TEST_F(Container, ZeroesAreNeverCheap) {
  const std::unique_ptr<LuksContainer> container = create(kMiB);
  expect_error(ErrorKind::kUnsupported, "zeroes",
               [&] { run(container->write_zeroes(0, kMiB, {.no_fallback = true})); });
  run(container->write_zeroes(0, kMiB, {.may_unmap = true}));
  EXPECT_TRUE(is_zero(read_all(*container)));
  EXPECT_FALSE(is_zero(ConstBytes(memory_.content()).subspan(kPayload, 512)));
}

TEST_F(Container, PassesFuaAndFlushDown) {
  const std::unique_ptr<LuksContainer> container = create(kMiB);
  const std::vector<std::byte> plain = random_bytes(kMiB);
  memory_.start_recording();
  run(container->write(0, plain, {.fua = true}));
  const auto after_crash = [&] { return memory_.after_power_loss(random_)->content(); };
  EXPECT_EQ(after_crash(), memory_.content());
  run(container->write_zeroes(0, kMiB));
  run(container->flush());
  EXPECT_EQ(after_crash(), memory_.content());
}

// Reads and writes of several chunks meet a storage that fails at each of them in turn.
TEST_F(Container, ErrorsInTheMiddleComeOut) {
  create(8 * kMiB);
  const std::vector<std::byte> plain = random_bytes(8 * kMiB);
  for (size_t good = 0; good < 8; ++good) {
    const std::unique_ptr<LuksContainer> writer = open(storage(good));
    expect_error(ErrorKind::kIo, "failed", [&] { run(writer->write(0, plain)); });
    constexpr size_t kReadsToOpen = 2;
    const std::unique_ptr<LuksContainer> reader = open(storage(kReadsToOpen + good, true));
    expect_error(ErrorKind::kIo, "failed", [&] { read(*reader, 0, 8 * kMiB); });
  }
  run(open(storage(8))->write(0, plain));
  EXPECT_EQ(read_all(*open()), plain);
}

TEST_F(Container, RefusesStoragesThatDoNotFit) {
  create(kMiB);
  const std::vector<std::byte> whole = memory_.content();
  run(memory_.resize(kPayload - 1));
  expect_error(ErrorKind::kCorrupt, "truncated", [&] { open(); });
  expect_error(ErrorKind::kCorrupt, "truncated", [&] { run(LuksContainer::open_locked(storage())); });
  run(memory_.resize(0));
  expect_error(ErrorKind::kCorrupt, "too few", [&] { open(); });

  run(memory_.write(0, whole));
  Luks1Header header = run(luks1_read_header(memory_, 0));
  header.payload_sector += 1;
  encode_luks1_header(header, Bytes(memory_.content()).first(kLuks1HeaderBytes));
  EXPECT_EQ(open()->length_bytes(), kMiB - 512);
  memory_.mutable_limits().request_alignment = 4096;
  expect_error(ErrorKind::kUnsupported, "4096", [&] { open(); });
}

}  // namespace
}  // namespace cofre::luks
