// What `info` tells about an image, in qemu-img's words: as text and as JSON. Home lane.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "image/open.h"

namespace cofre::image {

struct ImageInfo {
  std::string filename;
  std::string format;  // or the driver of a filter or of bare storage
  uint64_t virtual_bytes = 0;
  std::optional<uint64_t> actual_bytes;  // that the host gives to its file (a data file not counted)
  std::optional<uint64_t> cluster_bytes;
  bool encrypted = false;
  std::optional<bool> dirty = false;                 // nothing: the storage does not tell
  std::optional<std::string> backing_filename;       // as the header has it
  std::optional<std::string> full_backing_filename;  // as it is opened
  std::optional<std::string> backing_format;
  std::vector<qcow2::SnapshotEntry> snapshots;
  nlohmann::ordered_json limits;           // null: not to be told
  nlohmann::ordered_json format_specific;  // null: nothing to tell
};

// Of the top of a chain, which may be locked. Throws what reading headers throws.
io::task<ImageInfo> describe(OpenedImage& image);

// What requests a device takes, by QEMU 10.2's names (BlockLimitsInfo); what has no bound is left out.
nlohmann::ordered_json limits_json(const block::Limits& limits);

// The text of qemu-img info, with a newline at the end.
std::string info_text(const ImageInfo& info);
// The part of it about the format; empty for none.
std::string format_specific_text(const ImageInfo& info);
// The list of `snapshot -l`, part of info_text(); empty for none.
std::string snapshots_text(const std::vector<qcow2::SnapshotEntry>& snapshots);
nlohmann::ordered_json info_json(const ImageInfo& info);
// As QEMU prints JSON: four spaces, ASCII only.
std::string print_json(const nlohmann::ordered_json& json);

}  // namespace cofre::image
