#include "export/vhost_user_blk/chain.h"

#include <array>

#include "base/error.h"

namespace cofre::vhost {
namespace {

struct TableEntry {
  uint64_t address;
  uint32_t length;
  uint16_t flags;  // split ring; the next two trade places in a packed one
  uint16_t next;
};
static_assert(sizeof(TableEntry) == kDescriptorBytes);

// A lane walks one table at a time.
thread_local std::array<std::byte, kMostChainDescriptors * kDescriptorBytes> table_copy;
thread_local std::vector<Segment> table_pieces;

TableEntry entry_of_copy(size_t index) {
  TableEntry entry;
  std::memcpy(&entry, table_copy.data() + index * kDescriptorBytes, sizeof entry);
  return entry;
}

}  // namespace

uint64_t total_bytes(const std::vector<Segment>& segments) noexcept {
  uint64_t total = 0;
  for (const Segment& segment : segments) total += segment.length;
  return total;
}

void ChainBuilder::add(uint64_t address, uint32_t length, bool device_writes) {
  if (++added_ > kMostChainDescriptors)
    fail(ErrorKind::kCorrupt, "a request of more than {} descriptors", kMostChainDescriptors);
  if (length == 0) fail(ErrorKind::kCorrupt, "a descriptor of no bytes");
  if (!device_writes && !chain_.writable.empty())
    fail(ErrorKind::kCorrupt, "a descriptor to be read behind one to be written");
  if (!memory_.append_guest_range(address, length, device_writes ? chain_.writable : chain_.readable))
    fail(ErrorKind::kCorrupt, "a descriptor of {} bytes at {:#x}, where the guest has no memory", length,
         address);
}

// Read once: what the guest writes there afterwards changes nothing.
void ChainBuilder::copy_table(uint64_t address, uint32_t length) {
  if (length == 0 || length % kDescriptorBytes != 0 || length > table_copy.size())
    fail(ErrorKind::kCorrupt, "an indirect table of {} bytes", length);
  table_pieces.clear();
  if (!memory_.append_guest_range(address, length, table_pieces))
    fail(ErrorKind::kCorrupt, "an indirect table at {:#x}, where the guest has no memory", address);
  size_t copied = 0;
  for (const Segment& piece : table_pieces) {
    std::memcpy(table_copy.data() + copied, piece.data, piece.length);
    copied += piece.length;
  }
}

void ChainBuilder::add_table(uint64_t address, uint32_t length, bool linked) {
  copy_table(address, length);
  const size_t count = length / kDescriptorBytes;
  size_t index = 0;
  for (size_t seen = 1;; ++seen) {
    const TableEntry entry = entry_of_copy(index);
    const uint16_t flags = linked ? entry.flags : entry.next;
    if ((flags & descriptor_flag::kIndirect) != 0)
      fail(ErrorKind::kCorrupt, "an indirect table within an indirect table");
    add(entry.address, entry.length, (flags & descriptor_flag::kWrite) != 0);
    if (linked ? (flags & descriptor_flag::kNext) == 0 : seen == count) return;
    index = linked ? entry.next : seen;
    if (index >= count) fail(ErrorKind::kCorrupt, "descriptor {} of an indirect table of {}", index, count);
    if (seen == count) fail(ErrorKind::kCorrupt, "the descriptors of an indirect table form a loop");
  }
}

}  // namespace cofre::vhost
