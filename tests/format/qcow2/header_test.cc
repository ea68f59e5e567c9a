// The header codec: what is read is written back, known or not; what cannot be is refused with a reason.
#include "format/qcow2/header.h"

#include <filesystem>
#include <fstream>
#include <functional>

#include "format/luks/peer_tools.h"
#include "layout.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kFileLength = kGiB;

Header sample(uint32_t version = 3) {
  Header header;
  header.version = version;
  header.size_bytes = 10 * kMiB;
  header.l1_entries = 1;
  header.l1_table_offset = 3 * 65536;
  header.refcount_table_offset = 65536;
  header.refcount_table_clusters = 1;
  return header;
}

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

void expect_same(const Header& a, const Header& b) {
  EXPECT_EQ(encode_header(a), encode_header(b));
}

TEST(Qcow2Header, KeepsEverythingAcrossARewrite) {
  Header header = sample();
  header.incompatible_features = kDirty | kCompressionType;
  header.compatible_features = kLazyRefcounts | uint64_t{1} << 40;
  header.autoclear_features = kBitmaps | uint64_t{1} << 63;
  header.compression_type = CompressionType::kZstd;
  header.backing_file = "base.qcow2";
  header.backing_format = "qcow2";
  header.bitmaps = BitmapsPlace{2, 100, 5 * 65536};
  header.feature_names = default_feature_names();
  header.unknown = {
      {0x12345678, bytes_of({1, 2, 3})}, {0x9abcdef0, {}}, {0x11111111, bytes_of({9, 9, 9, 9, 9, 9, 9, 9})}};
  header.unknown_fields = bytes_of({1, 2, 3, 4, 5, 6, 7, 8});
  const std::vector<std::byte> encoded = encode_header(header);
  EXPECT_EQ(encoded.size() % 512, 0u);
  const Header decoded = decode_header(encoded, kFileLength, "test");
  expect_same(header, decoded);
  EXPECT_EQ(decoded.backing_file, "base.qcow2");
  EXPECT_EQ(decoded.backing_format, "qcow2");
  EXPECT_EQ(decoded.compatible_features, header.compatible_features);
  EXPECT_EQ(decoded.autoclear_features, header.autoclear_features);
  EXPECT_EQ(decoded.compression_type, CompressionType::kZstd);
  EXPECT_EQ(decoded.bitmaps->directory_offset, 5 * 65536u);
  ASSERT_EQ(decoded.unknown.size(), 3u);
  EXPECT_EQ(decoded.unknown[0].type, 0x12345678u);
  EXPECT_EQ(decoded.unknown[0].payload, bytes_of({1, 2, 3}));
  EXPECT_EQ(decoded.unknown_fields, header.unknown_fields);
}

TEST(Qcow2Header, Version2HasNoFeatures) {
  Header header = sample(2);
  header.backing_file = "x";
  const Header decoded = decode_header(encode_header(header), kFileLength, "test");
  EXPECT_EQ(decoded.version, 2u);
  EXPECT_EQ(decoded.refcount_order, 4u);
  EXPECT_EQ(decoded.backing_file, "x");
  EXPECT_TRUE(decoded.feature_names.empty());
}

void expect_refused(ErrorKind kind, std::string_view part, const std::function<void(Layout&)>& damage,
                    Header header = sample(), uint64_t file_length = kFileLength) {
  std::vector<std::byte> bytes = encode_header(header);
  Layout layout{bytes};
  damage(layout);
  expect_error(kind, part, [&] { decode_header(bytes, file_length, "bad.qcow2"); });
  expect_error(kind, "bad.qcow2", [&] { decode_header(bytes, file_length, "bad.qcow2"); });
}

TEST(Qcow2Header, RefusesWhatCannotBe) {
  using enum ErrorKind;
  expect_refused(kInvalidArgument, "not a qcow2", [](Layout& q) { q.put<uint32_t>(0, 1); });
  expect_refused(kUnsupported, "version 4", [](Layout& q) { q.put<uint32_t>(4, 4); });
  expect_refused(kCorrupt, "cluster_bits", [](Layout& q) { q.put<uint32_t>(20, 8); });
  expect_refused(kCorrupt, "cluster_bits", [](Layout& q) { q.put<uint32_t>(20, 22); });
  expect_refused(kUnsupported, "encryption method 3", [](Layout& q) { q.put<uint32_t>(32, 3); });
  expect_refused(kCorrupt, "32 MiB", [](Layout& q) { q.put<uint32_t>(36, 4 * 1024 * 1024 + 1); });
  expect_refused(kCorrupt, "needs", [](Layout& q) { q.put<uint64_t>(24, uint64_t{1} << 60); });
  expect_refused(kCorrupt, "L1 table", [](Layout& q) { q.put<uint64_t>(40, 3 * 65536 + 512); });
  expect_refused(kCorrupt, "truncated", [](Layout& q) { q.put<uint64_t>(40, kFileLength); });
  expect_refused(kCorrupt, "refcount table", [](Layout& q) { q.put<uint64_t>(48, 0); });
  expect_refused(kCorrupt, "refcount table", [](Layout& q) { q.put<uint32_t>(56, 0); });
  expect_refused(kCorrupt, "8 MiB", [](Layout& q) { q.put<uint32_t>(56, 129); });
  expect_refused(kCorrupt, "65536", [](Layout& q) { q.put<uint32_t>(60, 65537); });
  expect_refused(kCorrupt, "refcount_order", [](Layout& q) { q.put<uint32_t>(96, 7); });
  expect_refused(kCorrupt, "header length", [](Layout& q) { q.put<uint32_t>(100, 103); });
  expect_refused(kCorrupt, "does not fit", [](Layout& q) { q.put<uint32_t>(100, 1 << 20); });
  expect_refused(kCorrupt, "contradict", [](Layout& q) { q.put<uint8_t>(104, 1); });
  expect_refused(kUnsupported, "compression type 7", [](Layout& q) { q.put<uint8_t>(104, 7); });
  expect_refused(kCorrupt, "backing file name", [](Layout& q) { q.put<uint64_t>(8, 1 << 20); });
  expect_refused(kCorrupt, "more than fit",
                 [](Layout& q) { q.put<uint32_t>(112, 5), q.put<uint32_t>(116, 0xffffffff); });
  expect_refused(kCorrupt, "16 KiB",
                 [](Layout& q) { q.put<uint32_t>(20, 13), q.put<uint64_t>(72, kExtendedL2); });
  expect_refused(kCorrupt, "extension is missing", [](Layout& q) { q.put<uint32_t>(32, 2); });
  expect_refused(kCorrupt, "ends within", [](Layout& q) { q.file.resize(100); });
}

TEST(Qcow2Header, NamesUnknownFeaturesByTheTable) {
  Header header = sample();
  header.feature_names.resize(48);
  header.feature_names[1] = std::byte{17};
  const ConstBytes name = as_bytes("time travel");
  std::ranges::copy(name, header.feature_names.begin() + 2);
  expect_refused(
      ErrorKind::kUnsupported, "time travel", [](Layout& q) { q.put<uint64_t>(72, 1 << 17); }, header);
  expect_refused(ErrorKind::kUnsupported, "bit 18", [](Layout& q) { q.put<uint64_t>(72, 1 << 18); }, header);
}

TEST(Qcow2Header, ExtensionsThatDoNotFitAreSaidSo) {
  Header header = sample();
  header.cluster_bits = 9;
  header.backing_file = std::string(500, 'x');
  expect_error(ErrorKind::kLimit, "larger clusters", [&] { encode_header(header); });
  header.cluster_bits = 16;
  header.backing_file = std::string(1024, 'x');
  expect_error(ErrorKind::kLimit, "1023", [&] { encode_header(header); });
}

// qemu-img's own headers come back byte for byte.
TEST(Qcow2Header, AgreesWithQemuImg) {
  const luks::ScratchFolder folder;
  const std::string path = folder.path("image.qcow2");
  luks::expect_success({"qemu-img", "create", "-q", "-f", "raw", folder.path("base.raw"), "1M"});
  for (const char* options :
       {"compat=0.10", "compat=1.1", "compat=1.1,lazy_refcounts=on,refcount_bits=1",
        "cluster_size=2M,extended_l2=on", "compression_type=zstd", "backing_file=base.raw,backing_fmt=raw",
        "compat=0.10,backing_file=base.raw,backing_fmt=raw", "cluster_size=1024"}) {
    SCOPED_TRACE(options);
    luks::expect_success({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M"});
    std::ifstream in(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    const ConstBytes start = as_bytes(text).first(std::min<size_t>(text.size(), 65536));
    const Header header = decode_header(start, text.size(), path);
    const std::vector<std::byte> encoded = encode_header(header);
    EXPECT_TRUE(std::ranges::equal(encoded, start.first(encoded.size())));
    EXPECT_TRUE(is_zero(start.subspan(
        encoded.size(), std::min<size_t>(start.size(), header.cluster_bytes()) - encoded.size())));
    std::filesystem::remove(path);
  }
}

}  // namespace
}  // namespace cofre::qcow2
