#include "image/describe_qcow2.h"

#include "format/qcow2/bitmap_actions.h"
#include "image/image_name.h"

namespace cofre::image {
namespace {

using Json = nlohmann::ordered_json;

Json keyslot_json(const luks::Luks1Header& header, size_t index) {
  const luks::Luks1Keyslot& slot = header.keyslots[index];
  Json json = {{"active", slot.active}};
  if (slot.active) json["iters"] = slot.iterations;
  json["key-offset"] = header.material_offset_bytes(index);
  if (slot.active) json["stripes"] = slot.stripes;
  return json;
}

Json bitmaps_json(qcow2::Image& image) {
  Json list = Json::array();
  for (const qcow2::BitmapEntry& bitmap : qcow2::bitmaps_of(image)) {
    Json flags = Json::array();
    if (bitmap.in_use()) flags.push_back("in-use");
    if (bitmap.enabled()) flags.push_back("auto");
    list.push_back({{"flags", flags}, {"name", bitmap.name}, {"granularity", bitmap.granularity_bytes()}});
  }
  return list;
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
  if (bitmaps_valid(header)) json["bitmaps"] = bitmaps_json(image);
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
