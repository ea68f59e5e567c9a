#include "format/foreign/table_cache.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

constexpr uint64_t kSliceBytes = 4 * kKiB;
constexpr size_t kMostSlices = 1024;

}  // namespace

bool TableCache::copy_known(const Key& key, uint64_t at, Bytes entry) {
  const std::scoped_lock lock(mutex_);
  const auto found = slices_.find(key);
  if (found == slices_.end()) return false;
  by_use_.splice(by_use_.begin(), by_use_, found->second.use_order);
  std::copy_n(found->second.bytes.data() + at, entry.size(), entry.data());
  return true;
}

void TableCache::keep(const Key& key, AlignedBuffer bytes) {
  const std::scoped_lock lock(mutex_);
  if (slices_.contains(key)) return;  // another lane read it meanwhile
  if (slices_.size() >= kMostSlices) {
    slices_.erase(by_use_.back());
    by_use_.pop_back();
  }
  by_use_.push_front(key);
  slices_.emplace(key, Slice{std::move(bytes), by_use_.begin()});
}

io::task<void> TableCache::load(block::Device& file, uint64_t offset, Bytes entry) {
  const uint64_t length = file.length_bytes();
  if (!range_within(offset, entry.size(), length))
    fail(ErrorKind::kCorrupt, "'{}': a table has an entry at {}, but the file ends at {}: it is truncated",
         file.name(), offset, length);
  const Key key{&file, align_down(offset, kSliceBytes)};
  const uint64_t at = offset - key.second;
  if (copy_known(key, at, entry)) co_return;
  AlignedBuffer bytes(kSliceBytes);  // the end of the file's last one is never looked at
  co_await file.read(key.second, bytes.bytes().first(std::min(kSliceBytes, length - key.second)));
  std::copy_n(bytes.data() + at, entry.size(), entry.data());
  keep(key, std::move(bytes));
}

}  // namespace cofre::foreign
