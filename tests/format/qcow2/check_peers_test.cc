// The check's figures against those of qemu-img, on images that qemu-img made and this test damaged.
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <functional>

#include "format/luks/peer_tools.h"
#include "io/lanes.h"
#include "layout.h"
#include "storage/file.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using luks::expect_success;
using luks::run_program;

std::vector<std::byte> load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const ConstBytes bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

void save(const std::string& path, const std::vector<std::byte>& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// What qemu-img check prints; figures that it leaves out are zero.
struct Figures {
  uint64_t corruptions, leaks, check_errors, image_end, total, allocated, compressed, fragmented;
  bool operator==(const Figures&) const = default;
};

void PrintTo(const Figures& f, std::ostream* out) {
  *out << "corruptions " << f.corruptions << " leaks " << f.leaks << " check-errors " << f.check_errors
       << " end " << f.image_end << " total " << f.total << " allocated " << f.allocated << " compressed "
       << f.compressed << " fragmented " << f.fragmented;
}

Figures figures(const CheckResult& r) {
  return {r.corruptions,         r.leaks,
          r.check_errors,        r.image_end_offset,
          r.total_clusters,      r.allocated_clusters,
          r.compressed_clusters, r.fragmented_clusters};
}

class CheckAgainstQemu : public testing::Test {
 protected:
  void make(const std::string& options, const std::string& size = "1M",
            const std::vector<std::string>& commands = {"write -P 1 0 64k", "write -P 2 128k 64k"}) {
    expect_success({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path_, size});
    for (const std::string& command : commands)
      expect_success({"qemu-io", "-f", "qcow2", "-c", command, path_});
  }
  void damage(const std::function<void(Layout&)>& how) {
    std::vector<std::byte> bytes = load(path_);
    Layout layout{bytes};
    how(layout);
    save(path_, bytes);
  }

  uint64_t feature_bits() {
    std::vector<std::byte> bytes = load(path_);
    return Layout{bytes}.get<uint64_t>(72);
  }

  CheckResult check_ours(const std::string& path, bool leaks, bool errors) {
    return lanes_.run(check_file(path, leaks, errors));
  }
  io::task<CheckResult> check_file(std::string path, bool leaks, bool errors) {
    auto file = storage::FileDevice::open(path, {.read_only = !leaks && !errors});
    auto image = co_await Image::open(std::move(file), {.read_only = !leaks && !errors, .for_check = true});
    said_.clear();
    const CheckResult result = co_await check(
        *image, {.repair_leaks = leaks, .repair_errors = errors, .report = [this](const std::string& s) {
                   said_ += s + "\n";
                 }});
    co_await image->close();
    co_return result;
  }

  Figures check_qemu(const std::string& path) {
    const std::string image = encrypted_ ? "driver=qcow2,encrypt.key-secret=s,file.filename=" + path
                                         : "driver=qcow2,file.filename=" + path;
    const luks::Outcome outcome = run_program(
        {"qemu-img", "check", "--object", "secret,id=s,data=abc", "--output=json", "--image-opts", image});
    const size_t begin = outcome.output.find('{');
    const size_t end = outcome.output.find("\n}");
    if (begin == std::string::npos || end == std::string::npos) {
      ADD_FAILURE() << outcome.output;
      return {};
    }
    const auto json = nlohmann::json::parse(outcome.output.substr(begin, end + 2 - begin));
    const auto figure = [&](const char* key) { return json.value(key, uint64_t{0}); };
    return {figure("corruptions"),         figure("leaks"),
            figure("check-errors"),        figure("image-end-offset"),
            figure("total-clusters"),      figure("allocated-clusters"),
            figure("compressed-clusters"), figure("fragmented-clusters")};
  }

  // The same figures before repair; after ours, qemu-img finds what we say is left.
  void compare() {
    EXPECT_EQ(figures(check_ours(path_, false, false)), check_qemu(path_)) << said_;
    compare_repair(true, false);
    compare_repair(true, true);
  }

  CheckResult compare_repair(bool leaks, bool errors) {
    SCOPED_TRACE(errors ? "repair all" : "repair leaks");
    std::filesystem::copy_file(path_, copy_, std::filesystem::copy_options::overwrite_existing);
    const CheckResult repaired = check_ours(copy_, leaks, errors);
    EXPECT_EQ(figures(repaired), check_qemu(copy_)) << said_;
    return repaired;
  }

  // Everything can be mended, and no guest byte is lost by it.
  void expect_mended(uint64_t corruptions_fixed, uint64_t leaks_fixed) {
    EXPECT_EQ(figures(check_ours(path_, false, false)), check_qemu(path_)) << said_;
    const CheckResult repaired = compare_repair(true, true);
    EXPECT_EQ(repaired.corruptions, 0u);
    EXPECT_EQ(repaired.leaks, 0u);
    EXPECT_EQ(repaired.corruptions_fixed, corruptions_fixed) << said_;
    EXPECT_EQ(repaired.leaks_fixed, leaks_fixed) << said_;
    expect_success({"qemu-io", "-f", "qcow2", "-c", "read -P 1 0 64k", "-c", "read -P 2 128k 64k", copy_});
    expect_success({"qemu-io", "-f", "qcow2", "-c", "write -P 9 512k 128k", "-c", "read -P 1 0 64k", copy_});
    expect_success({"qemu-img", "check", "-q", copy_});
  }

  luks::ScratchFolder folder_;
  std::string path_ = folder_.path("image.qcow2");
  std::string copy_ = folder_.path("copy.qcow2");
  io::Lanes lanes_{1};
  std::string said_;
  bool encrypted_ = false;
};

TEST_F(CheckAgainstQemu, SoundImages) {
  for (const char* options :
       {"cluster_size=512", "cluster_size=4096,refcount_bits=1", "cluster_size=4096,refcount_bits=2",
        "refcount_bits=4", "refcount_bits=8", "compat=0.10", "refcount_bits=32",
        "refcount_bits=64,cluster_size=2M", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on"}) {
    SCOPED_TRACE(options);
    make(options);
    compare();
    EXPECT_EQ(check_ours(path_, false, false).corruptions, 0u);
  }
}

// QEMU's own creation of a LUKS header fails now and then, so ours it is.
io::task<void> create_encrypted(std::string path) {
  auto file = storage::FileDevice::create(path, {});
  CreateOptions options;
  options.size_bytes = 4 * kMiB;
  options.encryption = CryptMethod::kLuks;
  options.luks.forced_iterations = 1000;
  co_await create_image(*file, options, as_bytes("abc"));
  co_await file->close();
}

TEST_F(CheckAgainstQemu, EncryptedImageWithoutItsKey) {
  lanes_.run(create_encrypted(path_));
  encrypted_ = true;
  compare();
  EXPECT_EQ(check_ours(path_, false, false).leaks, 0u) << said_;
}

TEST_F(CheckAgainstQemu, CompressedClusters) {
  const std::vector<std::string> commands = {"write -c -P 1 0 64k", "write -c -P 2 64k 64k",
                                             "write -P 3 128k 128k", "write -c -P 4 1M 64k"};
  make("cluster_size=65536", "4M", commands);
  compare();
  damage([](Layout& q) { q.put<uint64_t>(q.l2(), Layout::kCompressed | uint64_t{1} << 40); });
  compare();
}

TEST_F(CheckAgainstQemu, ExternalDataFile) {
  make("cluster_size=4096,data_file=" + folder_.path("data.raw"));
  compare();
  damage([](Layout& q) { q.put<uint64_t>(q.l2() + 8, q.get<uint64_t>(q.l2() + 8) & ~Layout::kCopied); });
  EXPECT_EQ(figures(check_ours(path_, false, false)), check_qemu(path_));
}

TEST_F(CheckAgainstQemu, Snapshots) {
  make("cluster_size=4096");
  expect_success({"qemu-img", "snapshot", "-c", "one", path_});
  expect_success({"qemu-io", "-f", "qcow2", "-c", "write -P 3 0 8k", path_});
  expect_success({"qemu-img", "snapshot", "-c", "two", path_});
  expect_success({"qemu-io", "-f", "qcow2", "-c", "write -P 3 4k 8k", path_});
  compare();
}

TEST_F(CheckAgainstQemu, EntryOfASharedTableIsCountedForEachUser) {
  make("cluster_size=4096");
  expect_success({"qemu-img", "snapshot", "-c", "one", path_});
  damage([](Layout& q) { q.put<uint64_t>(q.l2(), uint64_t{1} << 40); });
  compare();
}

TEST_F(CheckAgainstQemu, Bitmaps) {
  make("cluster_size=4096");
  expect_success({"qemu-img", "bitmap", "--add", path_, "b0"});
  expect_success({"qemu-img", "bitmap", "--add", "-g", "64k", path_, "b1"});
  compare();
  EXPECT_EQ(check_ours(path_, false, false).leaks, 0u) << said_;
}

TEST_F(CheckAgainstQemu, LeakedClusters) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.set_refcount(10, 2); });
  compare();
  expect_mended(0, 1);
}

TEST_F(CheckAgainstQemu, CopiedFlags) {
  make("cluster_size=4096");
  damage([](Layout& q) {
    q.put<uint64_t>(q.l2(), q.get<uint64_t>(q.l2()) & ~Layout::kCopied);
    q.put<uint64_t>(q.l1(), q.get<uint64_t>(q.l1()) & ~Layout::kCopied);
  });
  compare();
  expect_mended(2, 0);
}

TEST_F(CheckAgainstQemu, RefcountTooLow) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.set_refcount(10, 0); });
  expect_mended(1, 0);
}

TEST_F(CheckAgainstQemu, TwoEntriesForOneCluster) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l2() + 8, q.get<uint64_t>(q.l2())); });
  compare();
  EXPECT_EQ(compare_repair(true, true).corruptions_fixed, 3u);
}

TEST_F(CheckAgainstQemu, TwoEntriesForOneTable) {
  make("cluster_size=4096", "4M");
  damage([](Layout& q) { q.put<uint64_t>(q.l1() + 8, q.get<uint64_t>(q.l1())); });
  compare();
  EXPECT_EQ(compare_repair(true, true).corruptions_fixed, 67u) << said_;
}

TEST_F(CheckAgainstQemu, EntryThatNamesMetadata) {
  for (const char* what : {"its own table", "the refcount table", "the L1 table"}) {
    SCOPED_TRACE(what);
    make("cluster_size=4096");
    damage([&](Layout& q) {
      const std::string name = what;
      const uint64_t target = name == "its own table"  ? q.l2()
                              : name == "the L1 table" ? q.l1()
                                                       : q.refcount_table();
      q.put<uint64_t>(q.l2(), target | Layout::kCopied);
    });
    compare();
    EXPECT_EQ(compare_repair(true, true).corruptions, 0u) << said_;
  }
}

TEST_F(CheckAgainstQemu, EntryThatNamesTheRefcountBlock) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l2() + 8, q.refcount_block() | Layout::kCopied); });
  EXPECT_EQ(figures(check_ours(path_, false, false)), check_qemu(path_)) << said_;
  EXPECT_EQ(compare_repair(true, true).corruptions, 0u) << said_;
}

TEST_F(CheckAgainstQemu, EntriesPastTheEnd) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l2(), Layout::kCopied | uint64_t{1} << 40); });
  compare();
}

TEST_F(CheckAgainstQemu, TruncatedFile) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.file.resize(q.file.size() - 8192); });
  compare();
}

TEST_F(CheckAgainstQemu, UnalignedEntries) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l2(), q.get<uint64_t>(q.l2()) + 512); });
  compare();
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l2(), (q.get<uint64_t>(q.l2()) + 512) | 1); });
  compare();  // a preallocated zero cluster holds nothing: it is dropped
  EXPECT_EQ(compare_repair(true, true).corruptions, 0u);
}

TEST_F(CheckAgainstQemu, ReservedBits) {
  make("cluster_size=4096");
  damage([](Layout& q) {
    q.put<uint64_t>(q.l2(), q.get<uint64_t>(q.l2()) | uint64_t{1} << 57);
    q.put<uint64_t>(q.l1(), q.get<uint64_t>(q.l1()) | uint64_t{1} << 58);
  });
  compare();
}

TEST_F(CheckAgainstQemu, MoreReferencesThanARefcountCanTell) {
  make("cluster_size=4096,refcount_bits=1");
  damage([](Layout& q) {
    q.put<uint64_t>(q.l2() + 8, q.get<uint64_t>(q.l2()));
    q.put<uint64_t>(q.l2() + 16, q.get<uint64_t>(q.l2()));
  });
  compare();
}

TEST_F(CheckAgainstQemu, SubclusterBitmaps) {
  const auto with = [&](const std::function<void(Layout&)>& how) {
    make("cluster_size=16384,extended_l2=on", "4M");
    damage(how);
    compare();
  };
  with([](Layout& q) { q.put<uint64_t>(q.l2() + 8, q.get<uint64_t>(q.l2() + 8) | uint64_t{1} << 32); });
  with([](Layout& q) { q.put<uint64_t>(q.l2(), 0), q.put<uint64_t>(q.l2() + 8, 1); });
  with([](Layout& q) {
    q.put<uint64_t>(q.l2(), q.get<uint64_t>(q.l2()) + 512), q.put<uint64_t>(q.l2() + 8, 0);
  });
  with([](Layout& q) { q.put<uint64_t>(q.l2(), q.get<uint64_t>(q.l2()) | 1); });
}

// qemu-img counts no reference of such an entry and has no repair for it; here the bitmap is cleared.
TEST_F(CheckAgainstQemu, CompressedClusterWithSubclusterBitmap) {
  make("cluster_size=16384,extended_l2=on", "4M");
  damage([](Layout& q) {
    q.put<uint64_t>(q.l2(), Layout::kCompressed | (q.get<uint64_t>(q.l2()) & Layout::kMask));
  });
  const CheckResult found = check_ours(path_, false, false);
  EXPECT_EQ(found.corruptions, 1u);
  EXPECT_EQ(found.leaks, 0u);
  EXPECT_EQ(compare_repair(true, true).corruptions, 0u);
}

// Where qemu-img 7.2 gives up or makes it worse, this check mends.
TEST_F(CheckAgainstQemu, RefcountStructureDamaged) {
  const auto mend = [&](const char* what, const std::function<void(Layout&)>& how) {
    SCOPED_TRACE(what);
    make("cluster_size=4096");
    damage(how);
    EXPECT_GT(check_ours(path_, false, false).corruptions, 0u);
    EXPECT_GT(check_ours(path_, true, false).corruptions, 0u) << "leaks alone cannot mend this";
    const CheckResult repaired = compare_repair(true, true);
    EXPECT_EQ(repaired.corruptions, 0u) << said_;
    EXPECT_EQ(repaired.leaks, 0u) << said_;
    EXPECT_EQ(repaired.check_errors, 0u) << said_;
    EXPECT_GT(repaired.corruptions_fixed, 0u);
    expect_success({"qemu-io", "-f", "qcow2", "-c", "read -P 1 0 64k", "-c", "write -P 9 512k 128k", "-c",
                    "read -P 2 128k 64k", copy_});
    expect_success({"qemu-img", "check", "-q", copy_});
  };
  mend("unaligned", [](Layout& q) { q.put<uint64_t>(q.refcount_table(), q.refcount_block() + 512); });
  mend("missing", [](Layout& q) { q.put<uint64_t>(q.refcount_table(), 0); });
  mend("reserved", [](Layout& q) { q.put<uint64_t>(q.refcount_table(), q.refcount_block() | 1); });
  mend("outside", [](Layout& q) { q.put<uint64_t>(q.refcount_table() + 8, uint64_t{1} << 30); });
  mend("far outside", [](Layout& q) { q.put<uint64_t>(q.refcount_table() + 8, uint64_t{1} << 55); });
  mend("the L2 table", [](Layout& q) { q.put<uint64_t>(q.refcount_table(), q.l2()); });
  mend("the header", [](Layout& q) { q.put<uint64_t>(q.refcount_table() + 8, q.refcount_table()); });
}

TEST_F(CheckAgainstQemu, TablesThatCannotBeFollowedKeepTheirClusters) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(q.l1(), Layout::kCopied | uint64_t{1} << 40); });
  const CheckResult plain = check_ours(path_, false, false);
  EXPECT_EQ(figures(plain), check_qemu(path_)) << said_;
  EXPECT_EQ(plain.leaks, 33u);
  // qemu-img would give the clusters away; here they stay for whoever can restore the entry.
  EXPECT_EQ(check_ours(path_, true, true).leaks, 33u);
}

TEST_F(CheckAgainstQemu, BitsOfTroubleGoWhenAllIsWell) {
  make("cluster_size=4096");
  damage([](Layout& q) { q.put<uint64_t>(72, 3); });
  EXPECT_EQ(check_ours(path_, false, false).corruptions, 0u);
  EXPECT_EQ(feature_bits(), 3u);
  EXPECT_EQ(check_ours(path_, true, false).corruptions, 0u);
  EXPECT_EQ(feature_bits(), 0u);
}

}  // namespace
}  // namespace cofre::qcow2
