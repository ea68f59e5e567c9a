#include "format/qcow2/header.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::qcow2 {
namespace {

constexpr uint32_t kVersion2HeaderBytes = 72;
constexpr uint32_t kVersion3MinimumBytes = 104;
constexpr uint32_t kKnownHeaderBytes = 112;  // through the compression type and its padding

enum ExtensionType : uint32_t {
  kEndOfExtensions = 0,
  kBackingFormat = 0xe2792aca,
  kFeatureNames = 0x6803f857,
  kBitmapsExtension = 0x23852875,
  kCryptHeader = 0x0537be77,
  kDataFileName = 0x44415441,
};

constexpr size_t kFeatureNameBytes = 48;

// ---- decoding ----

class Decoder {
 public:
  Decoder(ConstBytes start, uint64_t file_length, const std::string& name)
      : start_(start), file_length_(file_length), name_(name) {}

  Header decode() {
    read_fixed_part();
    read_version3_part();
    check_geometry();
    read_extensions();
    read_backing_name();
    check_features();
    check_tables();
    return std::move(header_);
  }

 private:
  uint32_t u32(size_t at) const { return load_be<uint32_t>(start_.data() + at); }
  uint64_t u64(size_t at) const { return load_be<uint64_t>(start_.data() + at); }

  template <typename... Args>
  [[noreturn]] void corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kCorrupt, "'{}': {} (the qcow2 header is damaged; restore it from a backup)", name_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void read_fixed_part() {
    if (!has_magic(start_))
      fail(ErrorKind::kInvalidArgument, "'{}' is not a qcow2 image (no qcow2 magic at offset 0)", name_);
    if (start_.size() < kVersion2HeaderBytes)
      corrupt("the file ends within the header, after {} bytes", start_.size());
    header_.version = u32(4);
    if (header_.version < 2 || header_.version > 3)
      fail(ErrorKind::kUnsupported, "'{}': qcow2 version {} is not supported (only 2 and 3 are)", name_,
           header_.version);
    backing_name_offset_ = u64(8);
    backing_name_bytes_ = u32(16);
    header_.cluster_bits = u32(20);
    header_.size_bytes = u64(24);
    const uint32_t method = u32(32);
    if (method > 2)
      fail(ErrorKind::kUnsupported, "'{}': encryption method {} is not known (0 none, 1 aes, 2 luks)", name_,
           method);
    header_.crypt_method = static_cast<CryptMethod>(method);
    header_.l1_entries = u32(36);
    header_.l1_table_offset = u64(40);
    header_.refcount_table_offset = u64(48);
    header_.refcount_table_clusters = u32(56);
    header_.snapshot_count = u32(60);
    header_.snapshots_offset = u64(64);
  }

  void read_version3_part() {
    header_bytes_ = kVersion2HeaderBytes;
    if (header_.version < 3) return;
    if (start_.size() < kVersion3MinimumBytes)
      corrupt("the file ends within the header, after {} bytes", start_.size());
    header_.incompatible_features = u64(72);
    header_.compatible_features = u64(80);
    header_.autoclear_features = u64(88);
    header_.refcount_order = u32(96);
    header_bytes_ = u32(100);
    if (header_bytes_ < kVersion3MinimumBytes || !is_aligned(header_bytes_, 8))
      corrupt("the header length at offset 100 is {} (at least {} and a multiple of 8 is needed)",
              header_bytes_, kVersion3MinimumBytes);
    if (header_bytes_ > start_.size()) corrupt("a header of {} bytes does not fit", header_bytes_);
    if (header_bytes_ > kVersion3MinimumBytes) header_.compression_type = read_compression_type();
    const bool other_type = header_.compression_type != CompressionType::kDeflate;
    if (other_type != ((header_.incompatible_features & kCompressionType) != 0))
      corrupt("compression type {} and its incompatible feature bit contradict each other",
              static_cast<unsigned>(header_.compression_type));
    if (header_bytes_ > kKnownHeaderBytes) {
      const ConstBytes unknown = start_.subspan(kKnownHeaderBytes, header_bytes_ - kKnownHeaderBytes);
      header_.unknown_fields.assign(unknown.begin(), unknown.end());
    }
  }

  CompressionType read_compression_type() const {
    const auto type = std::to_integer<uint8_t>(start_[104]);
    if (type > 1)
      fail(ErrorKind::kUnsupported, "'{}': compression type {} is not known (0 deflate, 1 zstd)", name_,
           type);
    return static_cast<CompressionType>(type);
  }

  void check_geometry() const {
    if (header_.cluster_bits < kMinClusterBits || header_.cluster_bits > kMaxClusterBits)
      corrupt("cluster_bits at offset 20 is {} (9 to 21 are allowed)", header_.cluster_bits);
    if (header_.refcount_order > kMaxRefcountOrder)
      corrupt("refcount_order at offset 96 is {} (0 to 6 are allowed)", header_.refcount_order);
    if (header_bytes_ > header_.cluster_bytes())
      corrupt("a header of {} bytes does not fit in one cluster", header_bytes_);
    if (header_.extended_l2() && header_.cluster_bits < kMinExtendedL2ClusterBits)
      corrupt("extended L2 entries need clusters of 16 KiB or more, here they are {} bytes",
              header_.cluster_bytes());
  }

  void read_extensions() {
    const uint64_t end = backing_name_offset_ != 0 ? backing_name_offset_ : header_.cluster_bytes();
    if (end > header_.cluster_bytes() || (backing_name_offset_ != 0 && backing_name_offset_ < header_bytes_))
      corrupt("the backing file name lies at offset {}, outside the first cluster", backing_name_offset_);
    uint64_t at = header_bytes_;
    while (range_within(at, 8, std::min<uint64_t>(end, start_.size()))) {
      const uint32_t type = u32(at);
      const uint32_t length = u32(at + 4);
      if (type == kEndOfExtensions) return;
      at += 8;
      if (!range_within(at, length, end) || !range_within(at, length, start_.size()))
        corrupt("the header extension 0x{:08x} at offset {} has {} bytes, more than fit", type, at - 8,
                length);
      keep_extension(type, start_.subspan(at, length), at);
      at = align_up<uint64_t>(at + length, 8);
    }
  }

  static std::string text(ConstBytes bytes) {
    std::string result(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return result.substr(0, result.find('\0'));
  }

  void keep_extension(uint32_t type, ConstBytes payload, uint64_t at) {
    switch (type) {
      case kBackingFormat:
        header_.backing_format = text(payload);
        break;
      case kFeatureNames:
        header_.feature_names.assign(payload.begin(), payload.end());
        break;
      case kDataFileName:
        header_.data_file = text(payload);
        break;
      case kCryptHeader:
        if (payload.size() != 16)
          corrupt("the encryption header extension at offset {} has {} bytes, not 16", at, payload.size());
        header_.crypt_header = {load_be<uint64_t>(payload.data()), load_be<uint64_t>(payload.data() + 8)};
        break;
      case kBitmapsExtension:
        if (payload.size() != 24)
          corrupt("the bitmaps extension at offset {} has {} bytes, not 24", at, payload.size());
        header_.bitmaps = {load_be<uint32_t>(payload.data()), load_be<uint64_t>(payload.data() + 8),
                           load_be<uint64_t>(payload.data() + 16)};
        break;
      default:
        header_.unknown.push_back({type, {payload.begin(), payload.end()}});
    }
  }

  void read_backing_name() {
    if (backing_name_offset_ == 0) return;
    if (backing_name_bytes_ > kMaxBackingNameBytes)
      corrupt("the backing file name has {} bytes (1023 are allowed)", backing_name_bytes_);
    const uint64_t limit = std::min<uint64_t>(header_.cluster_bytes(), start_.size());
    if (!range_within(backing_name_offset_, backing_name_bytes_, limit))
      corrupt("the backing file name at offset {} does not fit in the first cluster", backing_name_offset_);
    if (backing_name_bytes_ > 0)
      header_.backing_file = text(start_.subspan(backing_name_offset_, backing_name_bytes_));
  }

  std::string feature_name(unsigned type, unsigned bit) const {
    const auto& table = header_.feature_names;
    for (size_t at = 0; at + kFeatureNameBytes <= table.size(); at += kFeatureNameBytes) {
      if (std::to_integer<unsigned>(table[at]) == type && std::to_integer<unsigned>(table[at + 1]) == bit)
        return fmt::format("'{}'", text(ConstBytes(table).subspan(at + 2, kFeatureNameBytes - 2)));
    }
    return fmt::format("bit {}", bit);
  }

  void check_features() const {
    const uint64_t unknown = header_.incompatible_features & ~uint64_t{kKnownIncompatible};
    if (unknown != 0) {
      std::string names;
      for (unsigned bit = 0; bit < 64; ++bit)
        if (unknown >> bit & 1) names += (names.empty() ? "" : ", ") + feature_name(0, bit);
      fail(ErrorKind::kUnsupported, "'{}' needs features that are not known here: {}. Use a newer version",
           name_, names);
    }
    if (header_.crypt_method == CryptMethod::kLuks && !header_.crypt_header)
      corrupt("encryption is luks but the encryption header extension is missing");
    if (header_.crypt_method != CryptMethod::kLuks && header_.crypt_header)
      corrupt("there is an encryption header extension but encryption is not luks");
    if (header_.crypt_header) check_crypt_header();
    if (header_.raw_external_data() && header_.external_data() && header_.backing_file)
      corrupt("a raw external data file excludes a backing file");
  }

  void check_crypt_header() const {
    const auto& place = *header_.crypt_header;
    if (!is_aligned(place.offset, header_.cluster_bytes()) || place.offset == 0)
      corrupt("the encryption header's offset {} is not that of a cluster", place.offset);
    if (!range_within(place.offset, place.length_bytes, file_length_))
      corrupt("the encryption header at offset {} with {} bytes ends past the file's end at {}", place.offset,
              place.length_bytes, file_length_);
  }

  void check_table(const char* what, uint64_t offset, uint64_t bytes) const {
    if (!is_aligned(offset, header_.cluster_bytes()) || offset == 0 || offset >= kHostOffsetLimit)
      corrupt("the {} at offset {} is not at a cluster's start", what, offset);
    if (!range_within(offset, bytes, file_length_))
      corrupt("the {} at offset {} with {} bytes ends past the file's end at {} (is the file truncated?)",
              what, offset, bytes, file_length_);
  }

  void check_tables() const {
    const uint64_t l1_bytes = uint64_t{header_.l1_entries} * 8;
    if (l1_bytes > kMaxL1Bytes)
      corrupt("the L1 table has {} entries, more than 32 MiB hold", header_.l1_entries);
    const uint64_t bytes_per_l1_entry = header_.l2_entries_per_table() << header_.cluster_bits;
    const uint64_t needed = div_ceil(header_.size_bytes, bytes_per_l1_entry);
    if (needed > header_.l1_entries)
      corrupt("the L1 table has {} entries; a disk of {} bytes needs {}", header_.l1_entries,
              header_.size_bytes, needed);
    if (header_.l1_entries > 0) check_table("L1 table", header_.l1_table_offset, l1_bytes);
    const uint64_t refcount_bytes = uint64_t{header_.refcount_table_clusters} << header_.cluster_bits;
    if (refcount_bytes > kMaxRefcountTableBytes)
      corrupt("the refcount table has {} clusters, more than 8 MiB hold", header_.refcount_table_clusters);
    if (refcount_bytes == 0) corrupt("there is no refcount table");
    check_table("refcount table", header_.refcount_table_offset, std::min<uint64_t>(refcount_bytes, 8));
    if (header_.snapshot_count > kMaxSnapshots)
      corrupt("the snapshot table has {} entries (65536 are allowed)", header_.snapshot_count);
    if (header_.snapshot_count > 0) check_table("snapshot table", header_.snapshots_offset, 40);
  }

  ConstBytes start_;
  uint64_t file_length_;
  const std::string& name_;
  Header header_;
  uint32_t header_bytes_ = 0;
  uint64_t backing_name_offset_ = 0;
  uint32_t backing_name_bytes_ = 0;
};

// ---- encoding ----

class Encoder {
 public:
  explicit Encoder(const Header& header) : header_(header) {}

  // name_at 0: right behind the extensions.
  std::vector<std::byte> encode(uint64_t name_at = 0) {
    const bool version3 = header_.version >= 3;
    const size_t header_bytes =
        version3 ? kKnownHeaderBytes + header_.unknown_fields.size() : kVersion2HeaderBytes;
    bytes_.resize(header_bytes);
    write_fixed_part();
    if (version3) write_version3_part(static_cast<uint32_t>(header_bytes));
    write_extensions();
    if (name_at != 0) {
      if (bytes_.size() > kSectorBytes)
        fail(ErrorKind::kLimit, "the qcow2 header with its extensions needs more than a sector");
      if (header_.backing_file) bytes_.resize(name_at);
    }
    write_backing_name();
    if (bytes_.size() > header_.cluster_bytes())
      fail(ErrorKind::kLimit,
           "the qcow2 header with its extensions and names needs {} bytes, but a cluster has only {}: use "
           "larger clusters "
           "or a shorter backing file name",
           bytes_.size(), header_.cluster_bytes());
    bytes_.resize(align_up<size_t>(bytes_.size(), kSectorBytes));
    return std::move(bytes_);
  }

 private:
  void u32(size_t at, uint32_t value) { store_be(bytes_.data() + at, value); }
  void u64(size_t at, uint64_t value) { store_be(bytes_.data() + at, value); }

  void write_fixed_part() {
    u32(0, kMagic);
    u32(4, header_.version);
    u32(20, header_.cluster_bits);
    u64(24, header_.size_bytes);
    u32(32, static_cast<uint32_t>(header_.crypt_method));
    u32(36, header_.l1_entries);
    u64(40, header_.l1_table_offset);
    u64(48, header_.refcount_table_offset);
    u32(56, header_.refcount_table_clusters);
    u32(60, header_.snapshot_count);
    u64(64, header_.snapshots_offset);
  }

  void write_version3_part(uint32_t header_bytes) {
    u64(72, header_.incompatible_features);
    u64(80, header_.compatible_features);
    u64(88, header_.autoclear_features);
    u32(96, header_.refcount_order);
    u32(100, header_bytes);
    bytes_[104] = static_cast<std::byte>(header_.compression_type);
    std::copy(header_.unknown_fields.begin(), header_.unknown_fields.end(),
              bytes_.begin() + kKnownHeaderBytes);
  }

  void extension(uint32_t type, ConstBytes payload) {
    const size_t at = bytes_.size();
    bytes_.resize(align_up<size_t>(at + 8 + payload.size(), 8));
    u32(at, type);
    u32(at + 4, static_cast<uint32_t>(payload.size()));
    if (!payload.empty()) std::memcpy(bytes_.data() + at + 8, payload.data(), payload.size());
  }

  void text_extension(uint32_t type, const std::string& text) {
    extension(type, std::as_bytes(std::span(text)));
  }

  void write_extensions() {
    if (header_.backing_format) text_extension(kBackingFormat, *header_.backing_format);
    if (header_.data_file) text_extension(kDataFileName, *header_.data_file);
    if (header_.crypt_header) {
      std::array<std::byte, 16> payload;
      store_be(payload.data(), header_.crypt_header->offset);
      store_be(payload.data() + 8, header_.crypt_header->length_bytes);
      extension(kCryptHeader, payload);
    }
    if (!header_.feature_names.empty()) extension(kFeatureNames, header_.feature_names);
    if (header_.bitmaps) {
      std::array<std::byte, 24> payload = {};
      store_be(payload.data(), header_.bitmaps->count);
      store_be(payload.data() + 8, header_.bitmaps->directory_bytes);
      store_be(payload.data() + 16, header_.bitmaps->directory_offset);
      extension(kBitmapsExtension, payload);
    }
    for (const UnknownExtension& unknown : header_.unknown) extension(unknown.type, unknown.payload);
    extension(kEndOfExtensions, {});
  }

  void write_backing_name() {
    if (!header_.backing_file || header_.backing_file->empty()) return;
    const auto name = std::as_bytes(std::span(*header_.backing_file));
    if (name.size() > kMaxBackingNameBytes)
      fail(ErrorKind::kLimit, "the backing file name has {} bytes; qcow2 allows 1023", name.size());
    u64(8, bytes_.size());
    u32(16, static_cast<uint32_t>(name.size()));
    bytes_.insert(bytes_.end(), name.begin(), name.end());
  }

  const Header& header_;
  std::vector<std::byte> bytes_;
};

}  // namespace

bool has_magic(ConstBytes start) noexcept {
  return start.size() >= 8 && load_be<uint32_t>(start.data()) == kMagic;
}

Header decode_header(ConstBytes start, uint64_t file_length, const std::string& name) {
  return Decoder(start, file_length, name).decode();
}

std::vector<std::byte> encode_header(const Header& header) {
  return Encoder(header).encode();
}

std::vector<std::byte> encode_header(const Header& header, uint64_t name_at) {
  return Encoder(header).encode(name_at);
}

std::vector<std::byte> encode_header_with_room(Header& header) {
  try {
    return encode_header(header);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kLimit || header.feature_names.empty()) throw;
    header.feature_names.clear();
    return encode_header(header);
  }
}

std::vector<std::byte> default_feature_names() {
  struct Name {
    uint8_t type;
    uint8_t bit;
    const char* text;
  };
  static constexpr Name kNames[] = {
      {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
      {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
      {2, 0, "bitmaps"},          {2, 1, "raw external data"},
  };
  std::vector<std::byte> table(std::size(kNames) * kFeatureNameBytes);
  size_t at = 0;
  for (const Name& name : kNames) {
    table[at] = std::byte{name.type};
    table[at + 1] = std::byte{name.bit};
    std::memcpy(table.data() + at + 2, name.text, std::strlen(name.text));
    at += kFeatureNameBytes;
  }
  return table;
}

}  // namespace cofre::qcow2
