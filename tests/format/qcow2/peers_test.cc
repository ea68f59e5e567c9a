// Random writes by this code into images that qemu-img made, with its snapshots in between: qemu-img finds
// them sound, and reads what the model says, in the disk as it is and in each snapshot.
#include <filesystem>
#include <fstream>

#include "format/luks/peer_tools.h"
#include "io/lanes.h"
#include "io/sync.h"
#include "storage/file.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using luks::expect_success;

constexpr uint64_t kSector = 512;

struct Case {
  std::string options;
  uint64_t size = 2 * kMiB;
  uint64_t backing_bytes = 0;
  int snapshots = 2;
};

class AgainstQemu : public testing::TestWithParam<Case> {
 protected:
  void create() {
    const Case& c = GetParam();
    model_.assign(c.size, std::byte{0});
    std::vector<std::string> command = {"qemu-img", "create", "-q", "-f", "qcow2", "-o", c.options};
    if (c.backing_bytes > 0) {
      std::vector<std::byte> backing(c.backing_bytes);
      for (size_t at = 0; at < backing.size(); at += 3 * kSector)
        backing[at] = static_cast<std::byte>(random_() | 1);
      save("base.raw", backing);
      std::copy_n(backing.begin(), std::min<uint64_t>(backing.size(), c.size), model_.begin());
      command.insert(command.end(), {"-b", folder_.path("base.raw"), "-F", "raw"});
    }
    command.insert(command.end(), {path_, std::to_string(c.size)});
    expect_success(command);
  }

  void save(const std::string& name, const std::vector<std::byte>& bytes) {
    std::ofstream out(folder_.path(name), std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }

  static io::task<void> write_randomly(AgainstQemu& test, int count) {
    auto image = co_await Image::open(storage::FileDevice::open(test.path_, {}), {.l2_cache_bytes = 1});
    if (GetParam().backing_bytes > 0)
      image->set_backing(storage::FileDevice::open(test.folder_.path("base.raw"), {.read_only = true}));
    for (int i = 0; i < count; ++i) co_await one_round(test, *image);
    co_await image->close();
  }

  // Writes side by side in slices of the disk that do not overlap, though they share clusters.
  static io::task<void> one_round(AgainstQemu& test, Image& image) {
    constexpr uint64_t kWriters = 4;
    std::mt19937_64& random = test.random_;
    const uint64_t slice = test.model_.size() / kWriters / kSector * kSector;
    io::TaskGroup group;
    for (uint64_t i = 0; i < kWriters; ++i) {
      const uint64_t from = random() % (slice / kSector) * kSector;
      const uint64_t length = std::min((random() % 40 + 1) * kSector, slice - from);
      const auto part = std::span(test.model_).subspan(i * slice + from, length);
      if (random() % 4 == 0) {
        std::ranges::fill(part, std::byte{0});
        group.spawn(image.write_zeroes(i * slice + from, length, {.may_unmap = random() % 2 == 0}));
      } else {
        std::ranges::fill(part, static_cast<std::byte>(random()));
        group.spawn(image.write(i * slice + from, part));
      }
    }
    co_await group.join();
  }

  void compare(const std::string& image_of) {
    SCOPED_TRACE(image_of);
    expect_success({"qemu-img", "check", "-q", "-f", "qcow2", path_});
    save("model.raw", model_);
    expect_success({"qemu-img", "compare", "-f", "raw", "-F", "qcow2", folder_.path("model.raw"), path_});
  }

  luks::ScratchFolder folder_;
  std::string path_ = folder_.path("image.qcow2");
  io::Lanes lanes_{1};
  std::mt19937_64 random_{test_seed()};
  std::vector<std::byte> model_;
};

TEST_P(AgainstQemu, RandomWritesAndSnapshots) {
  create();
  std::vector<std::vector<std::byte>> taken;
  for (int i = 0; i <= GetParam().snapshots; ++i) {
    lanes_.run(write_randomly(*this, 40));
    compare("the disk after " + std::to_string(i) + " snapshots");
    if (i == GetParam().snapshots) break;
    expect_success({"qemu-img", "snapshot", "-c", "s" + std::to_string(i), path_});
    taken.push_back(model_);
  }
  for (size_t i = 0; i < taken.size(); ++i) {
    const std::string name = "s" + std::to_string(i);
    save("taken.raw", taken[i]);
    expect_success(
        {"qemu-img", "convert", "-f", "qcow2", "-l", name, "-O", "raw", path_, folder_.path("was.raw")});
    expect_success({"qemu-img", "compare", "-f", "raw", "-F", "raw", folder_.path("taken.raw"),
                    folder_.path("was.raw")});
    expect_success({"qemu-img", "snapshot", "-d", name, path_});
  }
  lanes_.run(write_randomly(*this, 10));
  compare("the disk in the end");
}

INSTANTIATE_TEST_SUITE_P(Images, AgainstQemu,
                         testing::Values(Case{"cluster_size=512"}, Case{"cluster_size=4096,refcount_bits=8"},
                                         Case{"cluster_size=65536,lazy_refcounts=on", 8 * kMiB},
                                         Case{"cluster_size=2M,refcount_bits=64", 24 * kMiB},
                                         Case{"cluster_size=4096,compat=0.10"},
                                         Case{"cluster_size=16384,extended_l2=on", 4 * kMiB},
                                         Case{"cluster_size=65536,extended_l2=on,refcount_bits=2", 8 * kMiB,
                                              3 * kMiB, 1},
                                         Case{"cluster_size=1024,refcount_bits=1", 2 * kMiB, 0, 0},
                                         Case{"cluster_size=8192", 2 * kMiB, kMiB + 7 * kSector},
                                         Case{"cluster_size=8192,compat=0.10", 2 * kMiB, 3 * kMiB}));

}  // namespace
}  // namespace cofre::qcow2
