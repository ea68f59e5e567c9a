#include "doctor/image.h"

#include <algorithm>
#include <array>

#include "base/aligned_buffer.h"
#include "base/error.h"

namespace cofre::doctor {
namespace {

constexpr size_t kMostLayers = 200;
constexpr uint64_t kMapWindowBytes = kGiB;

// LUKS2 (on-disk format 1.1, section 2.1): the magic of LUKS1, then version 2.
constexpr std::array<std::byte, 8> kLuks2Magic = {std::byte{'L'}, std::byte{'U'},  std::byte{'K'},
                                                  std::byte{'S'}, std::byte{0xba}, std::byte{0xbe},
                                                  std::byte{0},   std::byte{2}};

io::task<bool> starts_like_luks2(block::Device& device) {
  AlignedBuffer sector(kSectorBytes);
  if (device.length_bytes() < kSectorBytes) co_return false;
  co_await device.read(0, sector.bytes());
  co_return std::ranges::equal(sector.bytes().first(kLuks2Magic.size()), kLuks2Magic);
}

io::task<void> count_compressed(qcow2::Image& image, const std::function<bool()>& cancelled,
                                Qcow2Facts& facts) {
  try {
    for (uint64_t offset = 0; offset < image.length_bytes();) {
      if (cancelled && cancelled()) fail(ErrorKind::kCancelled, "interrupted");
      const uint64_t ask = std::min(kMapWindowBytes, image.length_bytes() - offset);
      const block::Extent extent = co_await image.map(offset, ask);
      if (extent.compressed) facts.compressed_bytes += extent.length_bytes;
      offset += extent.length_bytes;
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    facts.map_error = error.what();
  }
}

io::task<void> look_at_qcow2(qcow2::Image& image, const ImageQuestions& questions, LayerFacts& facts) {
  const qcow2::Header& header = image.header();
  Qcow2Facts& qcow2 = facts.qcow2.emplace();
  qcow2.cluster_bytes = header.cluster_bytes();
  qcow2.l2_entry_bytes = header.l2_entry_bytes();
  qcow2.dirty = image.is_dirty();
  qcow2.corrupt = image.is_corrupt();
  qcow2.snapshots = image.snapshots().size();
  facts.backing_file = header.backing_file;
  facts.backing_format = header.backing_format;
  if (header.crypt_method == qcow2::CryptMethod::kNone) co_return;
  co_await count_compressed(image, questions.cancelled, qcow2);
  if (header.crypt_method == qcow2::CryptMethod::kAes) {
    facts.encryption = Encryption::kLegacyAes;
  } else {
    facts.encryption = Encryption::kLuks;
    facts.luks = co_await image.luks_header();
  }
}

io::task<LayerFacts> look_at_layer(image::OpenedImage& opened, const ImageQuestions& questions) {
  const image::Layer& layer = opened.top();
  LayerFacts facts;
  facts.path = layer.path;
  facts.format = layer.format;
  facts.virtual_bytes = opened.device->length_bytes();
  facts.file_bytes = layer.file->length_bytes();
  if (layer.luks != nullptr) {
    facts.encryption = Encryption::kLuks;
    facts.luks = layer.luks->header();
  }
  if (layer.qcow2 != nullptr) co_await look_at_qcow2(*layer.qcow2, questions, facts);
  if (layer.format == image::Format::kRaw)
    facts.starts_like_luks2 = co_await starts_like_luks2(*opened.device);
  if (facts.luks && questions.measure) facts.unlock = measure_unlock_cost(*facts.luks);
  co_return facts;
}

std::optional<image::ImageName> name_below(const LayerFacts& layer) {
  if (!layer.backing_file) return std::nullopt;
  std::optional<image::Format> format;
  if (layer.backing_format) format = image::find_format(*layer.backing_format);
  return image::parse_header_name(image::resolve_beside(layer.path, *layer.backing_file), format);
}

using Identities = std::vector<storage::FileDevice::Identity>;

// Looks at one layer, and gives the name of the next.
io::task<std::optional<image::ImageName>> step_down(image::ImageName name, const ImageQuestions& questions,
                                                    Identities& seen, ImageFacts& facts) {
  image::OpenedImage opened =
      co_await image::open_image(std::move(name), {.force_share = questions.force_share,
                                                   .no_backing = true,
                                                   .headers_only = true,
                                                   .keys = image::Keys::kUnused});
  const storage::FileDevice* const file = opened.top().host_file;
  // Of what is no file of this host nobody knows whether it was seen before: it counts by itself.
  const auto identity = file != nullptr ? file->identity() : storage::FileDevice::Identity{};
  if (file != nullptr && std::ranges::find(seen, identity) != seen.end())
    fail(ErrorKind::kInvalidArgument, "'{}': the backing chain comes back to itself", opened.top().path);
  seen.push_back(identity);
  facts.layers.push_back(co_await look_at_layer(opened, questions));
  co_await opened.close();
  if (seen.size() >= kMostLayers)
    fail(ErrorKind::kLimit, "the backing chain is longer than {} images", kMostLayers);
  co_return name_below(facts.layers.back());
}

io::task<void> look_at_backing(std::optional<image::ImageName> name, const ImageQuestions& questions,
                               Identities& seen, ImageFacts& facts) {
  try {
    while (name) name = co_await step_down(std::move(*name), questions, seen, facts);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    facts.backing_error = error.what();
  }
}

bool needs_passphrase(const ImageFacts& facts) {
  return std::ranges::any_of(facts.layers, &LayerFacts::encrypted);
}

}  // namespace

io::task<ImageFacts> look_at_image(image::ImageName name, ImageQuestions questions) {
  ImageFacts facts;
  facts.name = name.text;
  Identities seen;
  std::optional<image::ImageName> below = co_await step_down(name, questions, seen, facts);
  co_await look_at_backing(std::move(below), questions, seen, facts);
  if (!questions.measure || !facts.backing_error.empty()) co_return facts;
  facts.lacks_passphrase = needs_passphrase(facts) && questions.secrets == nullptr;
  if (!facts.lacks_passphrase) {
    image::OpenedImage opened = co_await image::open_image(
        std::move(name), {.force_share = questions.force_share, .secrets = questions.secrets});
    facts.read_speed = co_await measure_read_speed(opened);
    co_await opened.close();
  }
  co_return facts;
}

}  // namespace cofre::doctor
