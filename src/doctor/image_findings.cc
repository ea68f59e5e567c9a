// What is right and wrong with an image and its backing chain.
#include <fmt/format.h>

#include <algorithm>

#include "doctor/image.h"
#include "doctor/speeds.h"
#include "image/describe_qcow2.h"
#include "image/size.h"

namespace cofre::doctor {
namespace {

constexpr uint64_t kUsualClusterBytes = 64 * kKiB;
// QEMU's l2-cache-size on Linux when nothing is said (QEMU's docs/qcow2-cache.txt).
constexpr uint64_t kQemuL2CacheBytes = 32 * kMiB;

// For a shell, quoted where it has to be.
std::string shell_word(const std::string& text) {
  const bool plain = !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("/._-+=:@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// The command that makes a LUKS qcow2 with the content of the whole chain.
std::string encrypting_command(const std::string& path) {
  return fmt::format("cofre convert -O qcow2 -o encrypt.format=luks --passphrase-file KEYFILE {} {}",
                     shell_word(path), shell_word(path + ".new"));
}

void judge_legacy_aes(const LayerFacts& layer, Section& section) {
  section.attention(
      "qcow2-legacy-aes",
      "encrypted with QEMU's legacy aes, which protects little: the key is the passphrase's first "
      "16 bytes as they are (no key derivation, the rest is ignored), and CBC's IVs are sector "
      "numbers, which can be foretold",
      encrypting_command(layer.path), layer.path);
}

std::string plain_sentence(const LayerFacts& layer) {
  if (layer.format != image::Format::kRaw) return "not encrypted";
  return layer.virtual_bytes == 0 ? "an empty file"
                                  : "raw, and not encrypted itself; what a guest may have encrypted in it is "
                                    "not looked for";
}

void judge_plain(const ImageFacts& facts, size_t index, Section& section) {
  const LayerFacts& layer = facts.layers[index];
  if (layer.starts_like_luks2) {
    section.note("luks2", "a LUKS2 container: Cofre reads LUKS1 only and sees its bytes as they are",
                 fmt::format("See cryptsetup luksDump {}", shell_word(layer.path)), layer.path);
    return;
  }
  const auto begin = facts.layers.begin();
  const auto here = begin + static_cast<std::ptrdiff_t>(index);
  if (std::any_of(begin, here, [](const LayerFacts& above) { return above.encrypted(); }))
    section.attention("plain-backing",
                      "not encrypted, although an image above it is: whoever reads this file reads what it "
                      "holds of the disk",
                      "Make one encrypted image of the chain: " + encrypting_command(facts.layers[0].path),
                      layer.path);
  else if (std::any_of(here + 1, facts.layers.end(),
                       [](const LayerFacts& below) { return below.encrypted(); }))
    section.attention(
        "plain-overlay",
        "not encrypted, although an image below it is: whatever is written goes into this file as "
        "it is",
        "Make one encrypted image of the chain: " + encrypting_command(facts.layers[0].path), layer.path);
  else
    section.note("not-encrypted", plain_sentence(layer), {}, layer.path);
}

void judge_encryption(const ImageFacts& facts, size_t index, Section& section) {
  const LayerFacts& layer = facts.layers[index];
  if (layer.encryption == Encryption::kLegacyAes) return judge_legacy_aes(layer, section);
  if (!layer.luks) return judge_plain(facts, index, section);
  section.ok("luks", fmt::format("encrypted with LUKS: {}", layer.luks->cipher.to_string()), layer.path);
  judge_luks(*layer.luks, layer.unlock, std::max(layer.virtual_bytes, layer.file_bytes), layer.path, section);
}

void judge_state(const LayerFacts& layer, Section& section) {
  const Qcow2Facts& qcow2 = *layer.qcow2;
  const std::string repair =
      fmt::format("Copy the file, then: cofre check -r all {}", shell_word(layer.path));
  if (qcow2.corrupt)
    section.attention("qcow2-corrupt", "marked corrupt: it can only be read until it is repaired", repair,
                      layer.path);
  if (qcow2.dirty)
    section.attention(
        "qcow2-dirty", "not closed cleanly: its reference counts have to be rebuilt (or it is in use)",
        fmt::format("When nobody uses it: cofre check -r all {}", shell_word(layer.path)), layer.path);
  if (!qcow2.map_error.empty()) section.attention("qcow2-tables-bad", qcow2.map_error, repair, layer.path);
  if (qcow2.compressed_bytes > 0)
    section.attention(
        "qcow2-plain-compressed",
        fmt::format(
            "{} of the disk are in compressed clusters, which are not encrypted although the image is",
            image::format_size(qcow2.compressed_bytes)),
        encrypting_command(layer.path), layer.path);
  if (qcow2.compressed_bytes == 0 && layer.encrypted() && qcow2.snapshots > 0)
    section.note("qcow2-snapshots-not-searched",
                 fmt::format("{} internal snapshots were not searched for unencrypted (compressed) clusters",
                             qcow2.snapshots),
                 {}, layer.path);
}

uint64_t l2_bytes_of_disk(const LayerFacts& layer) {
  const Qcow2Facts& qcow2 = *layer.qcow2;
  return (layer.virtual_bytes + qcow2.cluster_bytes - 1) / qcow2.cluster_bytes * qcow2.l2_entry_bytes;
}

void judge_clusters(const LayerFacts& layer, Section& section) {
  const Qcow2Facts& qcow2 = *layer.qcow2;
  const uint64_t needed = l2_bytes_of_disk(layer);
  const std::string cluster = image::format_size(qcow2.cluster_bytes);
  if (qcow2.cluster_bytes < kUsualClusterBytes)
    section.note("qcow2-small-clusters",
                 fmt::format("clusters of {}: {} times as much metadata as with 64 KiB", cluster,
                             kUsualClusterBytes / qcow2.cluster_bytes),
                 "A converted copy has clusters of 64 KiB: cofre convert", layer.path);
  if (needed <= kQemuL2CacheBytes) {
    section.ok("qcow2-metadata-cache",
               fmt::format("clusters of {}; the tables of the whole disk take {} of cache", cluster,
                           image::format_size(needed)),
               layer.path);
    return;
  }
  const double covered = static_cast<double>(kQemuL2CacheBytes) / static_cast<double>(needed) *
                         static_cast<double>(layer.virtual_bytes);
  section.note(
      "qcow2-metadata-cache-small",
      fmt::format("the tables of the whole disk take {}; QEMU's cache is 32 MiB when nothing is said, "
                  "enough for {} of {}",
                  image::format_size(needed), image::format_size(static_cast<uint64_t>(covered)),
                  image::format_size(layer.virtual_bytes)),
      fmt::format("For random access all over the disk: l2-cache-size={0} (libvirt, in <driver>: "
                  "<metadata_cache><max_size unit='bytes'>{0}</max_size></metadata_cache>)",
                  needed),
      layer.path);
}

void judge_backing(const ImageFacts& facts, Section& section) {
  for (const LayerFacts& layer : facts.layers)
    if (layer.backing_file && !layer.backing_format)
      section.attention(
          "backing-format-missing",
          "does not say which format its backing file has: the content is to tell, and in a raw "
          "one a guest may have written what it likes, for example the header of a qcow2 image "
          "over another file of the host",
          fmt::format("qemu-img rebase -u -b {} -F raw|qcow2 {}", shell_word(*layer.backing_file),
                      shell_word(layer.path)),
          layer.path);
  if (!facts.backing_error.empty())
    section.attention("backing-unreadable",
                      fmt::format("the backing chain ends too early: {}", facts.backing_error), {},
                      facts.layers.back().path);
}

void judge_read_speed(const ImageFacts& facts, Section& section) {
  const bool encrypted = std::ranges::any_of(facts.layers, &LayerFacts::encrypted);
  if (!facts.read_speed) {
    if (facts.lacks_passphrase)
      section.note("read-speed-left-out", "the speed of reading was not measured: that takes the passphrase",
                   "Give it with --passphrase-file, --passphrase-fd or --object");
    return;
  }
  const ReadSpeed& speed = *facts.read_speed;
  if (speed.measured_bytes == 0)
    section.ok("read-speed-no-data", "the speed of reading was not measured: the image holds no data");
  else
    section.ok(
        "read-speed",
        fmt::format("reads {} {} on one core, and {} of the file as it rests; both from memory ({} read)",
                    speed_text(speed.content), encrypted ? "decrypted" : "of the disk",
                    speed_text(speed.file), image::format_size(speed.measured_bytes)));
}

std::string_view encryption_name(Encryption encryption) {
  switch (encryption) {
    case Encryption::kNone:
      return "none";
    case Encryption::kLegacyAes:
      return "aes";
    case Encryption::kLuks:
      break;
  }
  return "luks";
}

Json unlock_json(const LayerFacts& layer) {
  Json list = Json::array();
  for (size_t i = 0; i < layer.luks->keyslots.size(); ++i)
    if (layer.luks->keyslots[i].active)
      list.push_back({{"keyslot", i}, {"milliseconds", layer.unlock.keyslot_ms(*layer.luks, i)}});
  return list;
}

Json layer_json(const LayerFacts& layer) {
  Json json = {{"filename", layer.path},
               {"format", image::format_name(layer.format)},
               {"virtual-size", layer.virtual_bytes},
               {"file-size", layer.file_bytes},
               {"encryption", encryption_name(layer.encryption)}};
  if (layer.luks) json["luks"] = image::luks_json(*layer.luks, false);
  if (layer.luks && layer.unlock.iterations_per_second > 0) json["unlock"] = unlock_json(layer);
  if (layer.qcow2) {
    json["cluster-size"] = layer.qcow2->cluster_bytes;
    json["dirty"] = layer.qcow2->dirty;
    json["corrupt"] = layer.qcow2->corrupt;
    json["snapshots"] = layer.qcow2->snapshots;
    json["l2-tables-size"] = l2_bytes_of_disk(layer);
    if (layer.encrypted()) json["compressed-bytes"] = layer.qcow2->compressed_bytes;
  }
  if (layer.backing_file) json["backing-filename"] = *layer.backing_file;
  if (layer.backing_format) json["backing-filename-format"] = *layer.backing_format;
  return json;
}

Json image_json(const ImageFacts& facts) {
  Json layers = Json::array();
  for (const LayerFacts& layer : facts.layers) layers.push_back(layer_json(layer));
  Json json = {{"filename", facts.name}, {"layers", std::move(layers)}};
  if (facts.read_speed)
    json["read-speed"] = {{"measured-bytes", facts.read_speed->measured_bytes},
                          {"content-bytes-per-second", facts.read_speed->content},
                          {"file-bytes-per-second", facts.read_speed->file}};
  return json;
}

}  // namespace

Section examine_image(const ImageFacts& facts) {
  Section section{.name = "image", .title = "Image " + facts.name, .facts = image_json(facts)};
  for (size_t i = 0; i < facts.layers.size(); ++i) {
    judge_encryption(facts, i, section);
    if (!facts.layers[i].qcow2) continue;
    judge_state(facts.layers[i], section);
    judge_clusters(facts.layers[i], section);
  }
  judge_backing(facts, section);
  judge_read_speed(facts, section);
  return section;
}

}  // namespace cofre::doctor
