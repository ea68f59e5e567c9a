#include "image/copy_bitmaps.h"

#include "base/error.h"
#include "format/qcow2/bitmap_actions.h"

namespace cofre::image {

BitmapsToCopy plan_bitmaps(const OpenedImage& source, bool skip_broken) {
  const Layer& top = source.top();
  if (top.qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "Source lacks bitmap support: '{}' is {}", top.path,
         format_name(top.format));
  BitmapsToCopy plan;
  for (qcow2::BitmapEntry& entry : qcow2::bitmaps_of(*top.qcow2)) {
    if (!entry.in_use()) {
      plan.bitmaps.push_back(std::move(entry));
    } else if (skip_broken) {
      plan.skipped.push_back(std::move(entry.name));
    } else {
      fail(ErrorKind::kInvalidArgument,
           "Cannot copy inconsistent bitmap '{}' of '{}': try --skip-broken-bitmaps, or delete it (bitmap "
           "--remove)",
           entry.name, top.path);
    }
  }
  return plan;
}

io::task<void> copy_bitmaps(const OpenedImage& source, const std::vector<qcow2::BitmapEntry>& bitmaps,
                            OpenedImage& target) {
  qcow2::Image& from = *source.top().qcow2;
  qcow2::Image& to = *target.top().qcow2;
  for (const qcow2::BitmapEntry& entry : bitmaps) {
    try {
      co_await qcow2::add_bitmap(to, entry.name, entry.granularity_bytes());
    } catch (const Error& error) {
      throw error.with_context(fmt::format("Failed to create bitmap {}", entry.name));
    }
    try {
      const qcow2::DirtyBitmap bits = co_await qcow2::read_bitmap(from, entry.name);
      co_await qcow2::merge_bitmap(to, entry.name, bits);
      if (!entry.enabled()) co_await qcow2::enable_bitmap(to, entry.name, false);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("Failed to populate bitmap {}", entry.name));
    }
  }
}

}  // namespace cofre::image
