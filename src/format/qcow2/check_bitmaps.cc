#include "format/qcow2/check_bitmaps.h"

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kReadBytes = kMiB;

class BitmapWalk {
 public:
  BitmapWalk(CheckContext& context, RangeSum& references) : context_(context), references_(references) {}

  io::task<bool> run() {
    Bitmaps& bitmaps = context_.state.bitmaps;
    if (!bitmaps.fault().empty() && context_.repair_errors) {
      context_.say(bitmaps.fault() + ": all bitmaps are dropped");
      co_await bitmaps.give_up_directory();
      ++context_.result.corruptions_fixed;
      co_return false;
    }
    if (!bitmaps.fault().empty()) {
      damaged(bitmaps.fault() + "; a repair drops all bitmaps");
      co_return false;
    }
    const BitmapsPlace place = *context_.state.header.bitmaps;
    claim(place.directory_offset, place.directory_bytes, "bitmap directory");
    for (const auto& bitmap : bitmaps.list()) note_table(bitmap->entry);
    co_await walk_tables();
    co_return true;
  }

 private:
  void damaged(const std::string& finding) {
    context_.incomplete = true;
    context_.corruption(1, finding);
  }

  bool claim(uint64_t offset, uint64_t length, const std::string& what) {
    if (length == 0) return true;
    if (offset == 0 || !is_aligned(offset, context_.cluster_bytes()) || !context_.in_file(offset, length)) {
      damaged(fmt::format("the {} at offset {} with {} bytes does not lie in clusters of the file", what,
                          offset, length));
      return false;
    }
    references_.add(context_.cluster_of(offset), context_.cluster_of(offset + length - 1) + 1);
    return true;
  }

  void note_table(const BitmapEntry& entry) {
    const uint64_t length = uint64_t{entry.table_entries} * 8;
    if (claim(entry.table_offset, length, fmt::format("table of bitmap '{}'", entry.name)))
      tables_.add(entry.table_offset, entry.table_offset + length);
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
    if ((entry & kBitmapTableReservedMask) != 0)
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

io::task<bool> reference_bitmaps(CheckContext& context, RangeSum& references) {
  co_return co_await BitmapWalk(context, references).run();
}

}  // namespace cofre::qcow2
