#include "image/measure.h"

#include <vector>

#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/bitmap_actions.h"
#include "format/qcow2/bitmap_directory.h"
#include "format/qcow2/measure.h"
#include "image/block_status.h"

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

// What the bitmaps that can be copied take.
uint64_t bitmaps_bytes(OpenedImage& source, uint64_t cluster) {
  std::vector<qcow2::BitmapEntry> bitmaps = qcow2::bitmaps_of(*source.top().qcow2);
  std::erase_if(bitmaps, [](const qcow2::BitmapEntry& bitmap) { return bitmap.in_use(); });
  return qcow2::bitmaps_image_bytes(bitmaps, source.device->length_bytes(), cluster);
}

io::task<FileSizes> measure_qcow2_copy(const qcow2::CreateOptions& options, OpenedImage& source) {
  const uint64_t cluster = uint64_t{1} << options.cluster_bits;
  const uint64_t length = source.device->length_bytes();
  // How much of it the new image's backing file will show, nobody knows.
  const uint64_t data =
      options.backing_file ? align_up(length, cluster) : co_await data_bytes(source, cluster);
  FileSizes sizes = measure_qcow2(options, length, data);
  if (source.top().qcow2 != nullptr && source.top().qcow2->header().version >= 3 && options.version >= 3)
    sizes.bitmaps_bytes = bitmaps_bytes(source, cluster);
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
