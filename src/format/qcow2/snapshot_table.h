// The snapshot table: which internal snapshots an image has.
// Source: qcow2 specification, "Snapshots". Home lane.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/device.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

struct SnapshotEntry {
  std::string id;
  std::string name;
  uint64_t l1_table_offset = 0;
  uint32_t l1_entries = 0;
  uint64_t vm_state_bytes = 0;
  uint64_t disk_bytes = 0;
  uint32_t date_seconds = 0;
  uint32_t date_nanoseconds = 0;
  uint64_t vm_clock_ns = 0;
  std::optional<uint64_t> icount;
  std::vector<std::byte> unknown_extra_data;  // beyond what is known here, kept across a rewrite
};

// Which snapshot is meant. What is not given does not count.
struct SnapshotSelector {
  std::optional<std::string> id;
  std::optional<std::string> name;
};
// Its place in the list: the first that fits.
std::optional<size_t> find_snapshot(std::span<const SnapshotEntry> snapshots,
                                    const SnapshotSelector& selector);
// The one of that ID, else the first of that name.
std::optional<size_t> find_snapshot(std::span<const SnapshotEntry> snapshots, const std::string& id_or_name);
// As QEMU picks it: one more than the largest so far.
std::string new_snapshot_id(std::span<const SnapshotEntry> snapshots);

// Reads and validates the table; `table_bytes`, if given, gets its length. Throws Error kCorrupt.
io::task<std::vector<SnapshotEntry>> read_snapshots(block::Device& file, const Header& header,
                                                    uint64_t* table_bytes = nullptr);
// The bytes of a table. `image` is for messages. Throws Error kLimit for what a reader would refuse.
std::vector<std::byte> encode_snapshots(std::span<const SnapshotEntry> snapshots, const std::string& image);

}  // namespace cofre::qcow2
