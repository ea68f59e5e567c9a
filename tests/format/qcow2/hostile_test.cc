// Small valid images of every kind, damaged at random: see hostile.h.
#include "hostile.h"

#include <filesystem>
#include <fstream>

#include "format/luks/peer_tools.h"
#include "layout.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using luks::expect_success;

class Hostile : public testing::Test {
 protected:
  std::vector<std::byte> take(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    std::filesystem::remove(path);
    const ConstBytes bytes = as_bytes(text);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::byte> make(const std::string& options) {
    const std::string path = folder_.path("image.qcow2");
    expect_success({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M"});
    expect_success({"qemu-io", "-f", "qcow2", "-c", "write -P 1 0 96k", "-c", "write -z 200k 64k", path});
    if (options.find("data_file") == std::string::npos) {
      expect_success({"qemu-io", "-f", "qcow2", "-c", "write -c -P 3 512k 64k", path});
      if (options.find("refcount_bits=1") == std::string::npos)  // too narrow for snapshots
        expect_success({"qemu-img", "snapshot", "-c", "one", path});
      expect_success({"qemu-io", "-f", "qcow2", "-c", "write -P 2 64k 64k", path});
    }
    if (options.find("0.10") == std::string::npos) expect_success({"qemu-img", "bitmap", "--add", path, "b"});
    return take(path);
  }

  // Something a damaged disk or an attacker would put there.
  static void damage(std::vector<std::byte>& bytes, uint64_t cluster, std::mt19937_64& random) {
    // Mostly where the metadata is: the header's cluster, or some other cluster's first entries.
    const uint64_t clusters = bytes.size() / cluster;
    const uint64_t start = random() % 3 == 0 ? 0 : random() % clusters * cluster;
    const uint64_t reach = start == 0 ? 112 : random() % 4 == 0 ? cluster : 64;
    const uint64_t at = start + random() % reach;
    switch (random() % 5) {
      case 0:
        bytes[at] ^= static_cast<std::byte>(1u << random() % 8);
        break;
      case 1:
        bytes[at] = static_cast<std::byte>(random());
        break;
      case 2:  // an entry that names some cluster
        Layout{bytes}.put<uint64_t>(at & ~uint64_t{7}, random() % (clusters + 2) * cluster | (random() & 1)
                                                                                                 << 63);
        break;
      case 3:  // one far outside
        Layout{bytes}.put<uint64_t>(at & ~uint64_t{7}, random() >> random() % 64);
        break;
      default:
        bytes.resize(at + 1);
    }
  }

  luks::ScratchFolder folder_;
};

TEST_F(Hostile, DamagedImages) {
  const uint64_t seed = test_seed();
  const std::string data = folder_.path("data.raw");
  const std::vector<std::vector<std::byte>> images = {
      make("cluster_size=4096"),
      make("cluster_size=512,refcount_bits=1"),
      make("cluster_size=16384,extended_l2=on,compression_type=zstd"),
      make("cluster_size=1024,refcount_bits=64,lazy_refcounts=on"),
      make("cluster_size=4096,compat=0.10"),
      make("cluster_size=4096,data_file=" + data),
  };
  for (int i = 0; i < rounds(2000); ++i) {
    const uint64_t round_seed = seed + static_cast<uint64_t>(i);
    SCOPED_TRACE(testing::Message() << "seed " << round_seed);
    std::mt19937_64 random(round_seed);
    std::vector<std::byte> bytes = images[random() % images.size()];
    const uint64_t cluster = Layout{bytes}.cluster_bytes();
    const uint64_t original_bytes = bytes.size();
    for (uint64_t n = random() % 3 + 1; n > 0 && bytes.size() == original_bytes; --n)
      damage(bytes, cluster, random);
    try_everything(bytes, round_seed);
  }
}

}  // namespace
}  // namespace cofre::qcow2
