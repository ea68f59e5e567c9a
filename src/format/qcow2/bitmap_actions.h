// What can be done with the persistent dirty bitmaps of an open image (bitmaps.h).
//
// Any lane. Needs no key. An action changes the image in memory; close() writes it, and until then a crash
// leaves the bitmaps as they were, or in use. Errors, whose sentences name the bitmap: kNotFound, kExists,
// kInvalidArgument (an inconsistent bitmap, granularity, name, length of disks), kUnsupported (a version 2
// image, an unknown kind of bitmap), kLimit, kCorrupt (a damaged directory or table), kReadOnly.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "format/qcow2/bitmap_directory.h"
#include "format/qcow2/dirty_bitmap.h"
#include "format/qcow2/image.h"

namespace cofre::qcow2 {

// In the order of the directory. In use: inconsistent. Throws Error kCorrupt for a damaged directory. No lock
// and no lane: when no action is in flight.
std::vector<BitmapEntry> bitmaps_of(Image& image);

// `granularity_bytes`, a power of two within 512 bytes and 2 GiB; none: default_bitmap_granularity_bits().
io::task<void> add_bitmap(Image& image, std::string name, std::optional<uint64_t> granularity_bytes);
// Any bitmap, also an inconsistent one. Of a damaged one the clusters leak.
io::task<void> remove_bitmap(Image& image, std::string name);
io::task<void> clear_bitmap(Image& image, std::string name);
// Enabled: it notes every change of the disk.
io::task<void> enable_bitmap(Image& image, std::string name, bool enabled);
io::task<void> merge_bitmap(Image& image, std::string name, std::string source_name);
io::task<void> merge_bitmap(Image& image, std::string name, const DirtyBitmap& source);
// A copy of the bits, as they are now.
io::task<DirtyBitmap> read_bitmap(Image& image, std::string name);
// The bits themselves, for queries from any lane beside reads and writes of the disk: valid until the image
// is closed or resized, or the bitmap is removed.
io::task<const DirtyBitmap*> live_bitmap(Image& image, std::string name);

}  // namespace cofre::qcow2
