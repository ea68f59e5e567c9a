#include "image/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/aligned_buffer.h"
#include "image/describe_foreign.h"
#include "image/describe_qcow2.h"
#include "image/size.h"

namespace cofre::image {
namespace {

using Json = nlohmann::ordered_json;

// Scalars as text prints them; strings without quotes.
std::string scalar_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void append_text(const Json& value, size_t indent, std::string& text) {
  size_t index = 0;
  for (const auto& [key, child] : value.items()) {
    std::string label = value.is_array() ? fmt::format("[{}]", index++) : key;
    if (!value.is_array()) std::replace(label.begin(), label.end(), '-', ' ');
    text += fmt::format("{:{}}{}:", "", indent, label);
    if (child.is_structured()) {
      text += '\n';
      append_text(child, indent + 4, text);
    } else {
      text += fmt::format(" {}\n", scalar_text(child));
    }
  }
}

std::string date_text(uint32_t seconds) {
  const std::time_t when = seconds;
  std::tm broken_down = {};
  localtime_r(&when, &broken_down);
  char text[32];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &broken_down);
  return {text, length};
}

std::string vm_clock_text(uint64_t nanoseconds) {
  const uint64_t seconds = nanoseconds / 1'000'000'000;
  return fmt::format("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60,
                     nanoseconds / 1'000'000 % 1000);
}

Json snapshots_json(const std::vector<qcow2::SnapshotEntry>& snapshots) {
  Json list = Json::array();
  for (const qcow2::SnapshotEntry& snapshot : snapshots) {
    Json entry = Json::object();
    if (snapshot.icount) entry["icount"] = *snapshot.icount;
    entry["vm-clock-nsec"] = snapshot.vm_clock_ns % 1'000'000'000;
    entry["name"] = snapshot.name;
    entry["date-sec"] = snapshot.date_seconds;
    entry["date-nsec"] = snapshot.date_nanoseconds;
    entry["vm-clock-sec"] = snapshot.vm_clock_ns / 1'000'000'000;
    entry["id"] = snapshot.id;
    entry["vm-state-size"] = snapshot.vm_state_bytes;
    list.push_back(std::move(entry));
  }
  return list;
}

// As printf pads: what is counted are bytes.
std::string padded(const std::string& text, size_t bytes) {
  return text + std::string(bytes - std::min(bytes, text.size()), ' ');
}

std::string backing_text(const ImageInfo& info) {
  if (!info.backing_filename) return "";
  std::string text = fmt::format("backing file: {}", *info.backing_filename);
  if (info.full_backing_filename && *info.full_backing_filename != *info.backing_filename)
    text += fmt::format(" (actual path: {})", *info.full_backing_filename);
  text += '\n';
  if (info.backing_format) text += fmt::format("backing file format: {}\n", *info.backing_format);
  return text;
}

}  // namespace

Json limits_json(const block::Limits& limits) {
  Json json = {{"request-alignment", limits.request_alignment}};
  if (limits.discard_alignment > limits.request_alignment) {
    json["discard-alignment"] = limits.discard_alignment;
    json["write-zeroes-alignment"] = limits.discard_alignment;
  }
  json["opt-transfer"] = limits.preferred_bytes;
  if (limits.max_write_bytes < block::Limits{}.max_write_bytes) json["max-transfer"] = limits.max_write_bytes;
  json["max-iov"] = 1;  // a request has one buffer
  json["min-mem-alignment"] = limits.memory_alignment;
  json["opt-mem-alignment"] = std::max<uint64_t>(limits.memory_alignment, kBufferAlignment);
  return json;
}

io::task<ImageInfo> describe(OpenedImage& image) {
  const Layer& top = image.top();
  ImageInfo info;
  info.filename = top.shown_name;
  info.format = top.driver;
  info.virtual_bytes = image.device->length_bytes();
  info.actual_bytes = top.file->allocated_bytes();
  if (top.luks != nullptr) {
    info.encrypted = true;
    info.format_specific = luks_json(top.luks->header(), false);
    if (top.luks->has_detached_header()) info.format_specific["detached-header"] = true;
  }
  if (top.foreign != nullptr) describe_foreign(*top.foreign, info);
  if (top.qcow2 != nullptr) co_await describe_qcow2(*top.qcow2, top.path, info);
  if (top.tells_nothing && (top.format == Format::kRaw || top.format == Format::kLuks)) info.dirty.reset();
  // A filter tells nothing of the format below it.
  if (top.driver != format_name(top.format)) info.format_specific = nullptr;
  co_return info;
}

std::string snapshots_text(const std::vector<qcow2::SnapshotEntry>& snapshots) {
  if (snapshots.empty()) return "";
  std::string text = "Snapshot list:\n";
  text += fmt::format("{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK",
                      "ICOUNT");
  for (const qcow2::SnapshotEntry& snapshot : snapshots)
    text += fmt::format("{} {} {:>8}{:>20}{:>13}{:>11}\n", padded(snapshot.id, 9), padded(snapshot.name, 16),
                        format_size(snapshot.vm_state_bytes), date_text(snapshot.date_seconds),
                        vm_clock_text(snapshot.vm_clock_ns),
                        snapshot.icount ? std::to_string(*snapshot.icount) : "");
  return text;
}

std::string info_text(const ImageInfo& info) {
  std::string text = fmt::format("image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\n", info.filename,
                                 info.format, format_size(info.virtual_bytes), info.virtual_bytes);
  text += fmt::format("disk size: {}\n", info.actual_bytes ? format_size(*info.actual_bytes) : "unavailable");
  if (info.encrypted) text += "encrypted: yes\n";
  if (info.cluster_bytes) text += fmt::format("cluster_size: {}\n", *info.cluster_bytes);
  if (info.dirty.value_or(false)) text += "cleanly shut down: no\n";
  text += backing_text(info);
  text += snapshots_text(info.snapshots);
  if (!info.limits.is_null()) {
    text += "Block limits:\n";
    append_text(info.limits, 4, text);
  }
  return text + format_specific_text(info);
}

std::string format_specific_text(const ImageInfo& info) {
  if (info.format_specific.is_null()) return "";
  std::string text = "Format specific information:\n";
  append_text(info.format_specific, 4, text);
  return text;
}

Json info_json(const ImageInfo& info) {
  Json json = Json::object();
  if (info.backing_format) json["backing-filename-format"] = *info.backing_format;
  if (!info.snapshots.empty()) json["snapshots"] = snapshots_json(info.snapshots);
  json["virtual-size"] = info.virtual_bytes;
  if (!info.limits.is_null()) json["limits"] = info.limits;
  json["filename"] = info.filename;
  if (info.cluster_bytes) json["cluster-size"] = *info.cluster_bytes;
  json["format"] = info.format;
  if (info.actual_bytes) json["actual-size"] = *info.actual_bytes;
  if (!info.format_specific.is_null())
    json["format-specific"] = {{"type", info.format}, {"data", info.format_specific}};
  if (info.full_backing_filename) json["full-backing-filename"] = *info.full_backing_filename;
  if (info.encrypted) json["encrypted"] = true;
  if (info.backing_filename) json["backing-filename"] = *info.backing_filename;
  if (info.dirty) json["dirty-flag"] = *info.dirty;
  return json;
}

std::string print_json(const Json& json) {
  return json.dump(4, ' ', true, Json::error_handler_t::replace);
}

}  // namespace cofre::image
