#include "format/qcow2/create.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/entries.h"

namespace cofre::qcow2 {
namespace {

template <typename... Args>
[[noreturn]] void invalid(fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorKind::kInvalidArgument, format, std::forward<Args>(args)...);
}

Header header_for(const CreateOptions& options) {
  Header header;
  header.version = options.version;
  header.cluster_bits = options.cluster_bits;
  header.size_bytes = options.size_bytes;
  header.crypt_method = options.encryption;
  header.refcount_order = options.refcount_order;
  header.compression_type = options.compression_type;
  if (options.lazy_refcounts) header.compatible_features |= kLazyRefcounts;
  if (options.extended_l2) header.incompatible_features |= kExtendedL2;
  if (options.compression_type != CompressionType::kDeflate) header.incompatible_features |= kCompressionType;
  if (options.data_file) header.incompatible_features |= kExternalDataFile;
  if (options.data_file_raw) header.autoclear_features |= kRawExternalData;
  header.data_file = options.data_file;
  header.backing_file = options.backing_file;
  header.backing_format = options.backing_format;
  if (options.version >= 3) header.feature_names = default_feature_names();
  const uint64_t bytes_per_l1_entry = header.l2_entries_per_table() << header.cluster_bits;
  header.l1_entries = static_cast<uint32_t>(div_ceil(options.size_bytes, bytes_per_l1_entry));
  return header;
}

// Where the parts of an empty image lie: header, refcount table, refcount blocks, encryption header, L1
// table.
struct Layout {
  uint64_t table_clusters = 1;
  uint64_t blocks = 1;
  uint64_t crypt_clusters = 0;
  uint64_t l1_clusters = 0;

  uint64_t blocks_start() const { return 1 + table_clusters; }
  uint64_t crypt_start() const { return blocks_start() + blocks; }
  uint64_t l1_start() const { return crypt_start() + crypt_clusters; }
  uint64_t clusters() const { return l1_start() + l1_clusters; }
};

Layout lay_out(const Header& header, const CreateOptions& options) {
  Layout layout;
  if (options.encryption == CryptMethod::kLuks)
    layout.crypt_clusters = div_ceil(luks::luks1_header_bytes(options.luks), header.cluster_bytes());
  layout.l1_clusters = div_ceil(uint64_t{header.l1_entries} * 8, header.cluster_bytes());
  while (true) {  // more blocks need more clusters need more blocks: ends after a few rounds
    const uint64_t blocks = div_ceil(layout.clusters(), header.refcounts_per_block());
    const uint64_t table_clusters = div_ceil(blocks * 8, header.cluster_bytes());
    if (blocks <= layout.blocks && table_clusters <= layout.table_clusters) return layout;
    layout.blocks = std::max(layout.blocks, blocks);
    layout.table_clusters = std::max(layout.table_clusters, table_clusters);
  }
}

io::task<void> write_refcounts(block::Device& file, const Header& header, const Layout& layout) {
  AlignedBuffer table(layout.table_clusters << header.cluster_bits);
  std::ranges::fill(table.bytes(), std::byte{0});
  for (uint64_t i = 0; i < layout.blocks; ++i)
    store_be(table.data() + i * 8, (layout.blocks_start() + i) << header.cluster_bits);
  co_await file.write(header.refcount_table_offset, table.bytes());

  AlignedBuffer block(header.cluster_bytes());
  for (uint64_t i = 0; i < layout.blocks; ++i) {
    std::ranges::fill(block.bytes(), std::byte{0});
    const uint64_t first = i * header.refcounts_per_block();
    const uint64_t used = std::min(layout.clusters() - first, header.refcounts_per_block());
    for (uint64_t k = 0; k < used; ++k) store_refcount(block.data(), k, header.refcount_order, 1);
    co_await file.write((layout.blocks_start() + i) << header.cluster_bits, block.bytes());
  }
}

// Version 2 knows none of these.
void validate_version2(const CreateOptions& options) {
  const char* option = options.refcount_order != 4                             ? "refcount_bits other than 16"
                       : options.lazy_refcounts                                ? "lazy_refcounts"
                       : options.extended_l2                                   ? "extended_l2"
                       : options.data_file                                     ? "data_file"
                       : options.compression_type != CompressionType::kDeflate ? "compression_type=zstd"
                                                                               : nullptr;
  if (option != nullptr) invalid("compat=0.10 has no {}; use compat=1.1", option);
}

}  // namespace

void validate(const CreateOptions& options) {
  if (options.version != 2 && options.version != 3)
    invalid("qcow2 has versions 2 (compat=0.10) and 3 (compat=1.1), not {}", options.version);
  if (options.cluster_bits < kMinClusterBits || options.cluster_bits > kMaxClusterBits)
    invalid("cluster_size must be a power of two from 512 to 2M");
  if (options.refcount_order > kMaxRefcountOrder) invalid("refcount_bits must be 1, 2, 4, 8, 16, 32 or 64");
  if (!is_aligned<uint64_t>(options.size_bytes, kSectorBytes))
    invalid("the image size {} is not a multiple of 512 bytes", options.size_bytes);
  if (options.version < 3) validate_version2(options);
  if (options.extended_l2 && options.cluster_bits < kMinExtendedL2ClusterBits)
    invalid("extended_l2 needs clusters of 16k or more; give a larger cluster_size");
  if (options.data_file_raw && !options.data_file)
    invalid("data_file_raw is a property of a data_file; name one");
  if (options.data_file_raw && options.backing_file)
    invalid(
        "a raw data file holds the whole disk, so it excludes a backing file; leave out data_file_raw or the "
        "backing file");
  if (options.preallocation != Preallocation::kOff && options.backing_file && !options.extended_l2)
    invalid("preallocation would hide the backing file; it is possible together with extended_l2=on only");
  const Header header = header_for(options);
  const uint64_t bytes_per_l1_entry = header.l2_entries_per_table() << header.cluster_bits;
  if (div_ceil(options.size_bytes, bytes_per_l1_entry) > kMaxL1Bytes / 8)
    invalid(
        "The image size is too large for a cluster size of {} bytes: at most {} bytes fit; use larger "
        "clusters",
        header.cluster_bytes(), kMaxL1Bytes / 8 * bytes_per_l1_entry);
}

io::task<std::optional<luks::Luks1Volume>> create_image(block::Device& file, const CreateOptions& options,
                                                        ConstBytes passphrase) {
  validate(options);
  Header header = header_for(options);
  const Layout layout = lay_out(header, options);
  header.refcount_table_offset = header.cluster_bytes();
  header.refcount_table_clusters = static_cast<uint32_t>(layout.table_clusters);
  header.l1_table_offset = layout.l1_start() << header.cluster_bits;
  if (options.encryption == CryptMethod::kLuks)
    header.crypt_header =
        CryptHeaderPlace{layout.crypt_start() << header.cluster_bits, luks::luks1_header_bytes(options.luks)};
  const std::vector<std::byte> header_bytes = encode_header_with_room(header);

  co_await file.write_zeroes(0, layout.clusters() << header.cluster_bits);
  co_await write_refcounts(file, header, layout);
  std::optional<luks::Luks1Volume> volume;
  if (header.crypt_header)
    volume = co_await luks::luks1_format(file, header.crypt_header->offset, options.luks, passphrase);
  co_await file.write(0, header_bytes);
  co_await file.flush();
  co_return volume;
}

}  // namespace cofre::qcow2
