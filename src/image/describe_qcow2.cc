#include "image/describe_qcow2.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "image/image_name.h"

namespace cofre::image {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxBitmapDirectoryBytes = 65535 * (24 + 1024 + 8);

Json keyslot_json(const luks::Luks1Header& header, size_t index) {
  const luks::Luks1Keyslot& slot = header.keyslots[index];
  Json json = {{"active", slot.active}};
  if (slot.active) json["iters"] = slot.iterations;
  json["key-offset"] = header.material_offset_bytes(index);
  if (slot.active) json["stripes"] = slot.stripes;
  return json;
}

// One entry of the bitmap directory (qcow2 specification, "Bitmap directory"); moves `at` behind it.
Json take_bitmap_entry(ConstBytes directory, uint64_t& at, const std::string& name) {
  constexpr uint64_t kFixedBytes = 24;
  if (!range_within(at, kFixedBytes, directory.size()))
    fail(ErrorKind::kCorrupt, "'{}': the bitmap directory ends within an entry; see `cofre check`", name);
  const std::byte* const entry = directory.data() + at;
  const auto flags = load_be<uint32_t>(entry + 12);
  const auto granularity_bits = static_cast<unsigned>(entry[17]);
  const uint64_t name_bytes = load_be<uint16_t>(entry + 18);
  const uint64_t extra_bytes = load_be<uint32_t>(entry + 20);
  if (!range_within(at + kFixedBytes, extra_bytes + name_bytes, directory.size()) || granularity_bits > 63)
    fail(ErrorKind::kCorrupt, "'{}': the bitmap directory has an entry that cannot be; see `cofre check`",
         name);
  Json flag_names = Json::array();
  if ((flags & 1) != 0) flag_names.push_back("in-use");
  if ((flags & 2) != 0) flag_names.push_back("auto");
  const auto* const text = reinterpret_cast<const char*>(entry + kFixedBytes + extra_bytes);
  at += align_up<uint64_t>(kFixedBytes + extra_bytes + name_bytes, 8);
  return {{"flags", flag_names},
          {"name", std::string(text, name_bytes)},
          {"granularity", uint64_t{1} << granularity_bits}};
}

io::task<Json> bitmaps_json(qcow2::Image& image) {
  const qcow2::Header& header = image.header();
  const qcow2::BitmapsPlace& place = *header.bitmaps;
  if (place.directory_bytes > kMaxBitmapDirectoryBytes ||
      !range_within(place.directory_offset, place.directory_bytes, image.file().length_bytes()))
    fail(ErrorKind::kCorrupt, "'{}': the bitmap directory lies outside of the file; see `cofre check`",
         image.name());
  AlignedBuffer directory(std::max<uint64_t>(place.directory_bytes, 1));
  const Bytes bytes = directory.bytes().first(place.directory_bytes);
  const uint64_t begin = align_down<uint64_t>(place.directory_offset, kSectorBytes);
  const uint64_t end =
      std::min(image.file().length_bytes(),
               align_up<uint64_t>(place.directory_offset + place.directory_bytes, kSectorBytes));
  AlignedBuffer sectors(std::max<uint64_t>(end - begin, 1));
  co_await image.file().read(begin, sectors.bytes().first(end - begin));
  std::copy_n(sectors.data() + (place.directory_offset - begin), bytes.size(), bytes.data());

  Json list = Json::array();
  uint64_t at = 0;
  for (uint32_t i = 0; i < place.count; ++i) list.push_back(take_bitmap_entry(bytes, at, image.name()));
  co_return list;
}

bool bitmaps_valid(const qcow2::Header& header) {
  return header.bitmaps && (header.autoclear_features & qcow2::kBitmaps) != 0;
}

io::task<Json> encrypt_json(qcow2::Image& image) {
  if (image.header().crypt_method == qcow2::CryptMethod::kAes) co_return Json{{"format", "aes"}};
  co_return luks_json(co_await image.luks_header(), true);
}

// In the order in which QEMU prints it.
io::task<Json> specific_json(qcow2::Image& image) {
  const qcow2::Header& header = image.header();
  const bool version3 = header.version >= 3;
  Json json = Json::object();
  json["compat"] = version3 ? "1.1" : "0.10";
  json["compression-type"] = header.compression_type == qcow2::CompressionType::kZstd ? "zstd" : "zlib";
  if (version3) json["lazy-refcounts"] = header.lazy_refcounts();
  if (bitmaps_valid(header)) json["bitmaps"] = co_await bitmaps_json(image);
  json["refcount-bits"] = header.refcount_bits();
  if (header.data_file) json["data-file"] = *header.data_file;
  if (header.crypt_method != qcow2::CryptMethod::kNone) json["encrypt"] = co_await encrypt_json(image);
  if (header.external_data()) json["data-file-raw"] = header.raw_external_data();
  if (version3) {
    json["corrupt"] = image.is_corrupt();
    json["extended-l2"] = header.extended_l2();
  }
  co_return json;
}

}  // namespace

Json luks_json(const luks::Luks1Header& header, bool in_qcow2) {
  Json json = Json::object();
  json["ivgen-alg"] = crypto::iv_generator_name(header.cipher.iv);
  json["hash-alg"] = crypto::digest_name(header.hash);
  json["cipher-alg"] = crypto::cipher_algorithm_name(header.cipher.algorithm);
  json["uuid"] = header.uuid_text();
  if (header.cipher.iv == crypto::IvGenerator::essiv)
    json["ivgen-hash-alg"] = crypto::digest_name(header.cipher.essiv_digest);
  if (in_qcow2) json["format"] = "luks";
  json["cipher-mode"] = crypto::cipher_mode_name(header.cipher.mode);
  Json slots = Json::array();
  for (size_t i = 0; i < luks::kLuks1Keyslots; ++i) slots.push_back(keyslot_json(header, i));
  json["slots"] = std::move(slots);
  json["payload-offset"] = header.payload_offset_bytes();
  json["master-key-iters"] = header.volume_key_iterations;
  return json;
}

io::task<void> describe_qcow2(qcow2::Image& image, const std::string& path, ImageInfo& info) {
  const qcow2::Header& header = image.header();
  info.cluster_bytes = header.cluster_bytes();
  info.encrypted = header.crypt_method != qcow2::CryptMethod::kNone;
  info.dirty = image.is_dirty();
  info.snapshots = image.snapshots();
  info.backing_filename = header.backing_file;
  info.backing_format = header.backing_format;
  if (header.backing_file) info.full_backing_filename = resolve_beside(path, *header.backing_file);
  info.format_specific = co_await specific_json(image);
}

}  // namespace cofre::image
