// Small valid images of every kind, damaged at random and with checksums made right again: nothing but
// cofre::Error may come of opening, mapping and reading them.
#include <gtest/gtest.h>
#include <isa-l/crc.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/test_seed.h"
#include "base/units.h"
#include "block/checked.h"
#include "format/foreign/vdi.h"
#include "format/foreign/vhdx.h"
#include "format/foreign/vmdk.h"
#include "format/foreign/vpc.h"
#include "format/luks/peer_tools.h"
#include "io/simulated_reactor.h"
#include "storage/memory.h"

namespace cofre::foreign {
namespace {

using Content = std::vector<std::byte>;

constexpr int kRounds =
#ifdef NDEBUG
    3000;
#else
    150;
#endif
constexpr int kMostExtents = 300;

struct Sample {
  std::string format;
  Content image;
  Content extent = {};                // of a vmdk in two files
  std::vector<uint64_t> places = {};  // where structures are, beside the start
};

class ForeignHostile : public testing::Test {
 protected:
  Content take(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    std::filesystem::remove(path);
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }

  Sample make(const std::string& format, const std::string& options, std::vector<uint64_t> places,
              const std::string& extent_suffix = "") {
    const std::string raw = folder_.path("disk.raw");
    const std::string path = folder_.path("image." + format);
    luks::expect_success({"qemu-img", "create", "-q", "-f", "raw", raw, "3M"});
    luks::expect_success(
        {"qemu-io", "-f", "raw", "-c", "write -P 1 0 200k", "-c", "write -P 2 2M 100k", raw});
    luks::expect_success({"qemu-img", "convert", "-f", "raw", "-O", format, "-o", options, raw, path});
    Sample sample{.format = format, .image = take(path)};
    if (!extent_suffix.empty()) sample.extent = take(folder_.path("image" + extent_suffix));
    sample.places = std::move(places);
    return sample;
  }

  std::unique_ptr<block::Device> device_of(const Content& content) {
    auto device = std::make_unique<storage::MemoryDevice>(0);
    reactor_->run_until_done(device->resize(content.size()));
    device->content() = content;
    return block::make_checked(std::move(device));
  }

  std::unique_ptr<block::Device> open(const Sample& sample) {
    std::unique_ptr<block::Device> file = device_of(sample.image);
    if (sample.format == "vdi") return run(Vdi::open(std::move(file)));
    if (sample.format == "vhdx") return run(Vhdx::open(std::move(file)));
    if (sample.format == "vpc") return run(Vpc::open(std::move(file), VpcSize::kByCreator));
    return run(Vmdk::open(std::move(file), [&](const std::string&) { return device_of(sample.extent); }));
  }

  template <typename T>
  T run(io::task<T> work) {
    return reactor_->run_until_done(std::move(work));
  }

  // True when it opened.
  bool try_everything(const Sample& sample, std::mt19937_64& random) {
    reactor_.emplace(random());
    std::unique_ptr<block::Device> image;
    try {
      image = block::make_checked(open(sample));
    } catch (const Error&) {
      return false;
    }
    attempt([&] { map_all(*image); });
    const uint64_t length = image->length_bytes();
    std::vector<std::byte> buffer(std::min<uint64_t>(length, 256 * kKiB));
    for (const uint64_t at : {uint64_t{0}, length - buffer.size(), random() % (length - buffer.size() + 1)})
      attempt([&] { run(image->read(at, buffer)); });
    attempt([&] { run(image->close()); });
    return true;
  }

  void map_all(block::Device& image) {
    uint64_t at = 0;
    for (int i = 0; i < kMostExtents && at < image.length_bytes(); ++i)
      at += run(image.map(at, image.length_bytes() - at)).length_bytes;
  }

  template <typename Action>
  void attempt(Action action) {
    try {
      action();
    } catch (const Error&) {
      // the sentence that a damaged image gets
    }
  }

  luks::ScratchFolder folder_;
  std::optional<io::SimulatedReactor> reactor_{1};
};

// Something a damaged disk or an attacker would put there.
void damage(Content& bytes, const std::vector<uint64_t>& places, std::mt19937_64& random) {
  if (bytes.empty()) return;
  const uint64_t start = places.empty() || random() % 3 == 0 ? 0 : places[random() % places.size()];
  const uint64_t at = std::min<uint64_t>(start + random() % 512, bytes.size() - 1);
  const uint64_t value = random() >> random() % 64;
  switch (random() % 6) {
    case 0:
      bytes[at] ^= static_cast<std::byte>(1U << random() % 8);
      break;
    case 1:
      bytes[at] = static_cast<std::byte>(random());
      break;
    case 2:
    case 3:
      for (size_t i = 0; i < 8 && (at & ~uint64_t{3}) + i < bytes.size(); ++i)
        bytes[(at & ~uint64_t{3}) + i] = static_cast<std::byte>(value >> 8 * i);
      break;
    case 4:
      for (size_t i = 0; i < 4 && (at & ~uint64_t{3}) + i < bytes.size(); ++i)
        bytes[(at & ~uint64_t{3}) + i] = static_cast<std::byte>(value >> 8 * (3 - i));
      break;
    default:
      if (random() % 4 == 0) bytes.resize(at + 1);
  }
}

void fix_vhdx(Content& bytes) {
  const auto fix = [&bytes](uint64_t at, uint64_t length) {
    if (at + length > bytes.size()) return;
    store_le<uint32_t>(bytes.data() + at + 4, 0);
    auto* const start = reinterpret_cast<unsigned char*>(bytes.data() + at);
    store_le<uint32_t>(bytes.data() + at + 4, ~crc32_iscsi(start, static_cast<int>(length), ~0U));
  };
  for (const uint64_t at : {64 * kKiB, 128 * kKiB}) fix(at, 4 * kKiB);
  for (const uint64_t at : {192 * kKiB, 256 * kKiB}) fix(at, 64 * kKiB);
}

void fix_vpc(Content& bytes) {
  const auto fix = [&bytes](uint64_t at, uint64_t length, uint64_t field) {
    if (at + length > bytes.size()) return;
    store_be<uint32_t>(bytes.data() + at + field, 0);
    uint32_t sum = 0;
    for (uint64_t i = 0; i < length; ++i) sum += static_cast<uint8_t>(bytes[at + i]);
    store_be<uint32_t>(bytes.data() + at + field, ~sum);
  };
  fix(0, 512, 64);
  fix(512, 1024, 36);
  if (bytes.size() >= 512) fix(bytes.size() - 512, 512, 64);
}

TEST_F(ForeignHostile, DamagedImages) {
  const uint64_t seed = test_seed();
  const std::vector<Sample> samples = {
      make("vmdk", "subformat=monolithicSparse", {512, 21 * 512, 26 * 512, 27 * 512}),
      make("vmdk", "subformat=streamOptimized", {512, 21 * 512, 26 * 512, 27 * 512, 65536, 70000}),
      make("vmdk", "subformat=twoGbMaxExtentSparse", {}, "-s001.vmdk"),
      make("vmdk", "subformat=twoGbMaxExtentFlat", {}, "-f001.vmdk"),
      make("vdi", "preallocation=off", {0x150, 512}),
      make("vhdx", "block_size=1M,log_size=1M",
           {64 * kKiB, 128 * kKiB, 192 * kKiB, 256 * kKiB, kMiB, 2 * kMiB, 2 * kMiB + 64 * kKiB, 3 * kMiB}),
      make("vpc", "subformat=dynamic", {512, 1536}),
      make("vpc", "subformat=fixed", {3 * kMiB}),
  };
  int opened = 0;
  for (int i = 0; i < kRounds; ++i) {
    const uint64_t round_seed = seed + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "seed " << round_seed);
    std::mt19937_64 random(round_seed);
    Sample sample = samples[random() % samples.size()];
    for (uint64_t n = random() % 3 + 1; n > 0; --n) {
      const bool in_extent = !sample.extent.empty() && random() % 2 == 0;
      damage(in_extent ? sample.extent : sample.image, sample.places, random);
    }
    if (random() % 8 != 0 && sample.format == "vhdx") fix_vhdx(sample.image);
    if (random() % 8 != 0 && sample.format == "vpc") fix_vpc(sample.image);
    opened += try_everything(sample, random) ? 1 : 0;
  }
  // The damage is not all such that nothing opens any more.
  EXPECT_GT(opened, kRounds / 10);
  EXPECT_LT(opened, kRounds);
}

}  // namespace
}  // namespace cofre::foreign
