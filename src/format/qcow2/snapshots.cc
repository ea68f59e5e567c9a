// The snapshot table. Source: qcow2 specification, "Snapshots".
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kFixedBytes = 40;
constexpr uint64_t kMostTableBytes = 64 * kMiB;
constexpr uint32_t kMostExtraBytes = 1024;

// Reads a table whose length is only known at its end, piece by piece.
class TableReader {
 public:
  TableReader(block::Device& file, uint64_t offset) : file_(file), offset_(offset) {}

  // The next `length` bytes; valid until the next call.
  io::task<ConstBytes> take(uint64_t length) {
    if (position_ + length > kMostTableBytes ||
        !range_within(offset_ + position_, length, file_.length_bytes()))
      fail(ErrorKind::kCorrupt,
           "'{}': the snapshot table at offset {} ends past the file's end (or is absurdly long)",
           file_.name(), offset_);
    bytes_.resize(length);
    co_await file_.read(offset_ + position_, bytes_);
    position_ += length;
    co_return bytes_;
  }
  void align() { position_ = align_up<uint64_t>(position_, 8); }
  uint64_t position() const { return position_; }

 private:
  block::Device& file_;
  uint64_t offset_;
  uint64_t position_ = 0;
  std::vector<std::byte> bytes_;
};

std::string text(ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

io::task<SnapshotEntry> read_entry(TableReader& reader, const Header& header) {
  const ConstBytes fixed = co_await reader.take(kFixedBytes);
  SnapshotEntry entry;
  entry.l1_table_offset = load_be<uint64_t>(fixed.data());
  entry.l1_entries = load_be<uint32_t>(fixed.data() + 8);
  const uint16_t id_bytes = load_be<uint16_t>(fixed.data() + 12);
  const uint16_t name_bytes = load_be<uint16_t>(fixed.data() + 14);
  entry.date_seconds = load_be<uint32_t>(fixed.data() + 16);
  entry.date_nanoseconds = load_be<uint32_t>(fixed.data() + 20);
  entry.vm_clock_ns = load_be<uint64_t>(fixed.data() + 24);
  entry.vm_state_bytes = load_be<uint32_t>(fixed.data() + 32);
  entry.disk_bytes = header.size_bytes;
  const uint32_t extra_bytes = load_be<uint32_t>(fixed.data() + 36);
  if (extra_bytes > kMostExtraBytes)
    fail(ErrorKind::kCorrupt, "a snapshot has {} bytes of extra data; at most {} make sense", extra_bytes,
         kMostExtraBytes);
  const ConstBytes extra = co_await reader.take(extra_bytes);
  if (extra.size() >= 8) entry.vm_state_bytes = load_be<uint64_t>(extra.data());
  if (extra.size() >= 16) entry.disk_bytes = load_be<uint64_t>(extra.data() + 8);
  if (extra.size() >= 24 && load_be<uint64_t>(extra.data() + 16) != UINT64_MAX)
    entry.icount = load_be<uint64_t>(extra.data() + 16);
  entry.id = text(co_await reader.take(id_bytes));
  entry.name = text(co_await reader.take(name_bytes));
  reader.align();
  co_return entry;
}

}  // namespace

io::task<std::vector<SnapshotEntry>> read_snapshots(block::Device& file, const Header& header,
                                                    uint64_t* table_bytes) {
  std::vector<SnapshotEntry> snapshots;
  TableReader reader(file, header.snapshots_offset);
  for (uint32_t i = 0; i < header.snapshot_count; ++i)
    snapshots.push_back(co_await read_entry(reader, header));
  if (table_bytes != nullptr) *table_bytes = reader.position();
  co_return snapshots;
}

}  // namespace cofre::qcow2
