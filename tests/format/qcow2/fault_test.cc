// An error of the storage at every request in turn: it is reported, nothing hangs, and what is left opens,
// has no corruption, and still holds what was flushed.
#include "layer/fault.h"

#include "model_rig.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kSize = 512 * kKiB;

// A few requests of each kind, always the same.
struct Script {
  Script(uint32_t cluster_bits, bool extended_l2, bool lazy) {
    options.size_bytes = kSize;
    options.cluster_bits = cluster_bits;
    options.extended_l2 = extended_l2;
    options.lazy_refcounts = lazy;
  }
  CreateOptions options;
};

io::task<void> steady_part(Image& image) {
  const std::vector<std::byte> ones(64 * kKiB, std::byte{1});
  co_await image.write(0, ones);
  co_await image.flush();
}

io::task<void> shaky_part(Image& image) {
  const std::vector<std::byte> twos(100 * kKiB, std::byte{2});
  io::TaskGroup group;
  group.spawn(image.write(128 * kKiB + 512, twos));
  group.spawn(image.write(256 * kKiB, twos));
  co_await group.join();
  co_await image.write_zeroes(130 * kKiB, 60 * kKiB, {.may_unmap = true});
  co_await image.flush();
  co_await image.discard(256 * kKiB, 64 * kKiB);
  co_await image.write(400 * kKiB, ConstBytes(twos).first(32 * kKiB));
  co_await image.write(320 * kKiB, ConstBytes(twos).first(64 * kKiB), {.compressed = true});
  co_await image.write(352 * kKiB, ConstBytes(twos).first(16 * kKiB), {.compressed = true});
  co_await image.flush();
  co_await image.write(320 * kKiB, ConstBytes(twos).first(48 * kKiB));
  co_await image.resize(kSize + 64 * kKiB);
}

class Faults : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }

  // Runs the script with the `number`th request of `kinds` failing. Whether it came to that.
  bool fails_at(const Script& script, uint64_t number, layer::RequestKinds kinds, bool once) {
    storage::MemoryDevice file(0, "image.qcow2");
    run(create_image(file, script.options, {}));
    layer::FaultDevice* faults = nullptr;
    uint64_t failures = 0;
    {
      auto device =
          std::make_unique<layer::FaultDevice>(block::make_checked(std::make_unique<Borrowed>(file)));
      faults = device.get();
      const std::unique_ptr<Image> image = run(Image::open(std::move(device), {.l2_cache_bytes = 1}));
      run(steady_part(*image));
      layer::Fault fault{.kinds = kinds, .skip = number, .tears = true};
      if (once) fault.count = 1;
      faults->add(fault);
      bool reported = false;
      bool closing = false;
      try {
        run(shaky_part(*image));
        closing = true;
        run(image->close());
      } catch (const Error& error) {
        reported = true;
        EXPECT_NE(std::string(error.what()).find("image.qcow2"), std::string::npos) << error.what();
        EXPECT_NE(error.kind(), ErrorKind::kCorrupt) << error.what();
        if (!closing) use_further(*image);
      }
      failures = faults->failures();
      if (failures == 0) {
        EXPECT_FALSE(reported);
      }
    }
    examine(file);
    return failures > 0;
  }

  // After an error: whatever it says, it ends.
  void use_further(Image& image) {
    const std::vector<std::byte> bytes(4096, std::byte{3});
    for (int i = 0; i < 3; ++i) {
      try {
        run(image.write(448 * kKiB, bytes));
        run(image.flush());
      } catch (const Error& error) {
        EXPECT_NE(error.kind(), ErrorKind::kCorrupt) << error.what();
      }
    }
  }

  void examine(storage::MemoryDevice& file) {
    bool dirty = false;
    std::string said;
    {
      const auto image = run(Image::open(std::make_unique<Borrowed>(file), {.for_check = true}));
      dirty = image->is_dirty();
      EXPECT_FALSE(image->is_corrupt());
      const CheckResult result =
          run(check(*image, {.report = [&](const std::string& s) { said += s + "\n"; }}));
      if (!dirty) {
        EXPECT_EQ(result.corruptions, 0u) << said;
      }
      EXPECT_EQ(result.check_errors, 0u) << said;
    }
    const auto image = run(Image::open(block::make_checked(std::make_unique<Borrowed>(file)), {}));
    std::vector<std::byte> now(64 * kKiB);
    run(image->read(0, now));
    EXPECT_TRUE(std::ranges::all_of(now, [](std::byte b) { return b == std::byte{1}; }));
    run(image->close());
    const auto again = run(Image::open(std::make_unique<Borrowed>(file), {.for_check = true}));
    EXPECT_EQ(run(check(*again, {})).corruptions, 0u);
  }

  void at_every_request(const Script& script, layer::RequestKinds kinds, bool once) {
    uint64_t number = 0;
    while (fails_at(script, number, kinds, once)) {
      if (HasFailure()) FAIL() << "at request " << number;
      number += rounds(20) == 1 ? 7 : 1;
    }
    EXPECT_GT(number, 0u);
  }

  io::SimulatedReactor reactor_{1};
};

TEST_F(Faults, OneErrorAtEveryRequest) {
  at_every_request(Script(9, false, false), layer::RequestKinds::all(), /*once=*/true);
  at_every_request(Script(12, false, false), layer::RequestKinds::all(), /*once=*/true);
  at_every_request(Script(14, true, false), layer::RequestKinds::all(), /*once=*/true);
  at_every_request(Script(10, false, true), layer::RequestKinds::all(), /*once=*/true);
}

TEST_F(Faults, StorageThatFailsForGood) {
  at_every_request(Script(9, false, false), layer::RequestKinds::changes() | layer::RequestKind::kFlush,
                   /*once=*/false);
  at_every_request(Script(12, false, true), layer::RequestKinds::all(), /*once=*/false);
}

TEST_F(Faults, FlushesThatFail) {
  at_every_request(Script(9, false, false), layer::RequestKind::kFlush, /*once=*/true);
  at_every_request(Script(10, false, true), layer::RequestKind::kFlush, /*once=*/true);
}

// A full disk: the requests that need space fail, everything else goes on, also when there is space again.
TEST_F(Faults, FullDisk) {
  for (uint64_t space = 0; space < 400 * kKiB; space += 24 * kKiB + 512) {
    storage::MemoryDevice file(0, "image.qcow2");
    run(create_image(file, Script(12, false, false).options, {}));
    auto device = std::make_unique<layer::FaultDevice>(std::make_unique<Borrowed>(file));
    layer::FaultDevice& faults = *device;
    const std::unique_ptr<Image> image = run(Image::open(std::move(device), {}));
    run(steady_part(*image));
    faults.limit_written_bytes(space);
    expect_error(ErrorKind::kNoSpace, "image.qcow2",
                 [&] { run(shaky_part(*image)), run(shaky_part(*image)), run(image->close()); });
    faults.clear();
    std::vector<std::byte> now(64 * kKiB);
    run(image->read(0, now));
    EXPECT_EQ(now.back(), std::byte{1});
    run(image->write(500 * kKiB, now = std::vector<std::byte>(4096, std::byte{5})));
    run(image->close());
    examine(file);
  }
}

}  // namespace
}  // namespace cofre::qcow2
