#include "format/qcow2/snapshot_table.h"

#include <algorithm>
#include <charconv>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kFixedBytes = 40;
constexpr uint64_t kMostTableBytes = 64 * kMiB;
constexpr uint32_t kMostExtraBytes = 1024;
constexpr uint32_t kKnownExtraBytes = 24;  // VM state size, disk size, icount
constexpr uint64_t kMostTextBytes = UINT16_MAX;

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
  if (extra.size() > kKnownExtraBytes)
    entry.unknown_extra_data.assign(extra.begin() + kKnownExtraBytes, extra.end());
  entry.id = text(co_await reader.take(id_bytes));
  entry.name = text(co_await reader.take(name_bytes));
  reader.align();
  co_return entry;
}

template <typename T>
void append(std::vector<std::byte>& bytes, T value) {
  bytes.resize(bytes.size() + sizeof value);
  store_be(bytes.data() + bytes.size() - sizeof value, value);
}

void append(std::vector<std::byte>& bytes, const std::string& text) {
  const auto* const first = reinterpret_cast<const std::byte*>(text.data());
  bytes.insert(bytes.end(), first, first + text.size());
}

void append_entry(std::vector<std::byte>& bytes, const SnapshotEntry& entry) {
  append<uint64_t>(bytes, entry.l1_table_offset);
  append<uint32_t>(bytes, entry.l1_entries);
  append<uint16_t>(bytes, static_cast<uint16_t>(entry.id.size()));
  append<uint16_t>(bytes, static_cast<uint16_t>(entry.name.size()));
  append<uint32_t>(bytes, entry.date_seconds);
  append<uint32_t>(bytes, entry.date_nanoseconds);
  append<uint64_t>(bytes, entry.vm_clock_ns);
  // A size that does not fit is told by the extra data alone.
  const bool fits = entry.vm_state_bytes <= UINT32_MAX;
  append<uint32_t>(bytes, fits ? static_cast<uint32_t>(entry.vm_state_bytes) : 0);
  append<uint32_t>(bytes, kKnownExtraBytes + static_cast<uint32_t>(entry.unknown_extra_data.size()));
  append<uint64_t>(bytes, entry.vm_state_bytes);
  append<uint64_t>(bytes, entry.disk_bytes);
  append<uint64_t>(bytes, entry.icount.value_or(UINT64_MAX));
  bytes.insert(bytes.end(), entry.unknown_extra_data.begin(), entry.unknown_extra_data.end());
  append(bytes, entry.id);
  append(bytes, entry.name);
  bytes.resize(align_up<uint64_t>(bytes.size(), 8));
}

bool fits(const SnapshotEntry& entry, const SnapshotSelector& selector) {
  return (selector.id || selector.name) && (!selector.id || entry.id == *selector.id) &&
         (!selector.name || entry.name == *selector.name);
}

}  // namespace

std::optional<size_t> find_snapshot(std::span<const SnapshotEntry> snapshots,
                                    const SnapshotSelector& selector) {
  for (size_t i = 0; i < snapshots.size(); ++i)
    if (fits(snapshots[i], selector)) return i;
  return std::nullopt;
}

std::optional<size_t> find_snapshot(std::span<const SnapshotEntry> snapshots, const std::string& id_or_name) {
  const auto by_id = find_snapshot(snapshots, SnapshotSelector{.id = id_or_name, .name = std::nullopt});
  return by_id ? by_id : find_snapshot(snapshots, SnapshotSelector{.id = std::nullopt, .name = id_or_name});
}

std::string new_snapshot_id(std::span<const SnapshotEntry> snapshots) {
  uint64_t largest = 0;
  for (const SnapshotEntry& snapshot : snapshots) {
    uint64_t number = 0;  // stays so for an ID that is none
    std::from_chars(snapshot.id.data(), snapshot.id.data() + snapshot.id.size(), number);
    if (number != UINT64_MAX) largest = std::max(largest, number);
  }
  return std::to_string(largest + 1);
}

std::vector<std::byte> encode_snapshots(std::span<const SnapshotEntry> snapshots, const std::string& image) {
  if (snapshots.size() > kMaxSnapshots)
    fail(ErrorKind::kLimit, "'{}': an image can have {} snapshots, not more: delete some", image,
         kMaxSnapshots);
  std::vector<std::byte> bytes;
  for (const SnapshotEntry& snapshot : snapshots) {
    if (snapshot.id.size() > kMostTextBytes || snapshot.name.size() > kMostTextBytes)
      fail(ErrorKind::kLimit, "'{}': the name of a snapshot has at most {} bytes", image, kMostTextBytes);
    append_entry(bytes, snapshot);
    if (bytes.size() > kMostTableBytes)
      fail(ErrorKind::kLimit, "'{}': the table of snapshots would be longer than {} MiB: delete some", image,
           kMostTableBytes / kMiB);
  }
  return bytes;
}

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
