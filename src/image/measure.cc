#include "image/measure.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/measure.h"
#include "image/block_status.h"
#include "image/describe.h"

namespace cofre::image {
namespace {

FileSizes without_holes(uint64_t bytes) {
  return {.required_bytes = bytes, .fully_allocated_bytes = bytes, .bitmaps_bytes = std::nullopt};
}

FileSizes measure_qcow2(qcow2::CreateOptions options, uint64_t size_bytes, uint64_t data_bytes) {
  options.size_bytes = size_bytes;
  const qcow2::Measurement measured = qcow2::measure(options, data_bytes);
  return {.required_bytes = measured.required_bytes,
          .fully_allocated_bytes = measured.fully_allocated_bytes,
          .bitmaps_bytes = std::nullopt};
}

FileSizes measure_luks(const luks::Luks1CreateOptions& options, uint64_t size_bytes) {
  const std::optional<uint64_t> bytes = checked_add(luks::luks1_header_bytes(options), size_bytes);
  if (!bytes || *bytes > INT64_MAX)
    fail(ErrorKind::kLimit, "a container of {} bytes is more than a file can hold", size_bytes);
  return without_holes(*bytes);
}

// The clusters of the new image that get data, together.
io::task<uint64_t> data_bytes(OpenedImage& source, uint64_t cluster) {
  BlockStatusReader reader(source);
  const uint64_t length = source.device->length_bytes();
  uint64_t bytes = 0;
  for (uint64_t at = 0; at < length;) {
    const BlockStatus status = co_await reader.at(at, length - at);
    uint64_t end = at + status.length;
    if (status.data && !status.zero) {
      end = align_up(end, cluster);
      bytes += end - align_down(at, cluster);
    }
    at = end;
  }
  co_return bytes;
}

// All bits of the bitmaps that can be copied, their tables, and the directory that lists them.
uint64_t bitmaps_bytes(const ImageInfo& info, uint64_t cluster) {
  constexpr uint64_t kEntryBytes = 24;
  const auto bitmaps = info.format_specific.find("bitmaps");
  if (bitmaps == info.format_specific.end()) return 0;
  uint64_t bytes = 0;
  uint64_t directory = 0;
  for (const auto& bitmap : *bitmaps) {
    const auto& flags = bitmap["flags"];
    if (std::find(flags.begin(), flags.end(), "in-use") != flags.end()) continue;
    const uint64_t bits = div_ceil(info.virtual_bytes, bitmap["granularity"].get<uint64_t>());
    const uint64_t clusters = div_ceil(div_ceil<uint64_t>(bits, 8), cluster);
    bytes += clusters * cluster + align_up(clusters * 8, cluster);
    directory += align_up<uint64_t>(kEntryBytes + bitmap["name"].get<std::string>().size(), 8);
  }
  return bytes + align_up(directory, cluster);
}

io::task<FileSizes> measure_qcow2_copy(const qcow2::CreateOptions& options, OpenedImage& source) {
  const uint64_t cluster = uint64_t{1} << options.cluster_bits;
  const uint64_t length = source.device->length_bytes();
  // How much of it the new image's backing file will show, nobody knows.
  const uint64_t data =
      options.backing_file ? align_up(length, cluster) : co_await data_bytes(source, cluster);
  FileSizes sizes = measure_qcow2(options, length, data);
  if (source.top().qcow2 != nullptr && source.top().qcow2->header().version >= 3 && options.version >= 3)
    sizes.bitmaps_bytes = bitmaps_bytes(co_await describe(source), cluster);
  co_return sizes;
}

}  // namespace

FileSizes measure_new(Format format, const CreateSettings& settings, uint64_t size_bytes) {
  const uint64_t size = align_up<uint64_t>(size_bytes, kSectorBytes);
  if (format == Format::kQcow2) return measure_qcow2(settings.qcow2, size, 0);
  if (format == Format::kLuks) return measure_luks(settings.luks, size);
  return without_holes(size);
}

io::task<FileSizes> measure_conversion(Format format, const CreateSettings& settings, OpenedImage& source) {
  if (format == Format::kQcow2) co_return co_await measure_qcow2_copy(settings.qcow2, source);
  co_return measure_new(format, settings, source.device->length_bytes());
}

}  // namespace cofre::image
