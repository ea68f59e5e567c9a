#include "format/qcow2/check_bitmaps.h"

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kMostBitmaps = 65535;
constexpr uint64_t kMostDirectoryBytes = 64 * kMiB;
constexpr uint64_t kFixedEntryBytes = 24;
constexpr uint64_t kReservedMask = 0xff000000000001fe;
constexpr uint64_t kReadBytes = kMiB;

class BitmapWalk {
 public:
  BitmapWalk(CheckContext& context, RangeSum& references) : context_(context), references_(references) {}

  io::task<void> run() {
    const BitmapsPlace place = *context_.state.header.bitmaps;
    if (place.count == 0 || place.count > kMostBitmaps || place.directory_bytes > kMostDirectoryBytes)
      co_return damaged(
          fmt::format("{} bitmaps in a directory of {} bytes cannot be", place.count, place.directory_bytes));
    if (!claim(place.directory_offset, place.directory_bytes, "bitmap directory")) co_return;
    AlignedBuffer directory(place.directory_bytes);
    co_await context_.read(place.directory_offset, directory.bytes());
    ConstBytes left = directory.bytes();
    for (uint32_t i = 0; i < place.count; ++i) {
      const uint64_t length = entry_bytes(left);
      if (length == 0) co_return damaged(fmt::format("the bitmap directory ends within its entry {}", i));
      note_table(left);
      left = left.subspan(length);
    }
    co_await walk_tables();
  }

 private:
  void damaged(const std::string& finding) {
    context_.incomplete = true;
    context_.corruption(1, finding);
  }

  bool claim(uint64_t offset, uint64_t length, const char* what) {
    if (length == 0) return true;
    if (offset == 0 || !is_aligned(offset, context_.cluster_bytes()) || !context_.in_file(offset, length)) {
      damaged(fmt::format("the {} at offset {} with {} bytes does not lie in clusters of the file", what,
                          offset, length));
      return false;
    }
    references_.add(context_.cluster_of(offset), context_.cluster_of(offset + length - 1) + 1);
    return true;
  }

  // Of the directory's first entry, padding included; 0 if it does not fit.
  static uint64_t entry_bytes(ConstBytes directory) {
    if (directory.size() < kFixedEntryBytes) return 0;
    const uint64_t name_bytes = load_be<uint16_t>(directory.data() + 18);
    const uint64_t extra_bytes = load_be<uint32_t>(directory.data() + 20);
    const uint64_t length = align_up<uint64_t>(kFixedEntryBytes + extra_bytes + name_bytes, 8);
    return length <= directory.size() ? length : 0;
  }

  void note_table(ConstBytes entry) {
    const uint64_t offset = load_be<uint64_t>(entry.data());
    const uint64_t length = uint64_t{load_be<uint32_t>(entry.data() + 8)} * 8;
    if (claim(offset, length, "bitmap table")) tables_.add(offset, offset + length);
  }

  io::task<void> walk_tables() {
    AlignedBuffer piece(kReadBytes);
    for (const RangeSum::Range& range : tables_.sum()) {
      for (uint64_t at = range.begin; at < range.end; at += kReadBytes) {
        const Bytes bytes = piece.bytes().first(std::min(kReadBytes, range.end - at));
        co_await context_.read(at, bytes);
        for (size_t i = 0; i < bytes.size(); i += 8)
          note_bits(load_be<uint64_t>(bytes.data() + i), at + i, range.weight);
        context_.step(0, 1);
      }
    }
  }

  void note_bits(uint64_t entry, uint64_t at, uint64_t weight) {
    if ((entry & kReservedMask) != 0)
      return context_.corruption(
          weight,
          fmt::format("the bitmap table entry at offset {} has reserved bits set: {:#018x}", at, entry));
    const uint64_t offset = entry & kOffsetMask;
    if (offset == 0) return;
    if (!is_aligned(offset, context_.cluster_bytes()) || !context_.in_file(offset, context_.cluster_bytes()))
      return context_.corruption(
          weight,
          fmt::format(
              "the bitmap table entry at offset {} names host offset {}, which is not a cluster of the file",
              at, offset));
    references_.add(context_.cluster_of(offset), context_.cluster_of(offset) + 1, weight);
  }

  CheckContext& context_;
  RangeSum& references_;
  RangeSum tables_;
};

}  // namespace

io::task<void> reference_bitmaps(CheckContext& context, RangeSum& references) {
  co_await BitmapWalk(context, references).run();
}

}  // namespace cofre::qcow2
