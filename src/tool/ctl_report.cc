#include "tool/ctl_report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <iterator>

namespace cofre::tool {
namespace {

using Json = nlohmann::ordered_json;

std::string text(const Json& object, const char* field) {
  return object.at(field).get<std::string>();
}

void report_counters(const Json& counters, std::string& into) {
  for (const auto& [op, counts] : counters.items()) {
    const auto requests = counts.at("requests").get<uint64_t>();
    if (requests == 0) continue;
    fmt::format_to(std::back_inserter(into), "  {:<13}{} requests, {} errors, {:.3f} s", op, requests,
                   counts.at("errors").get<uint64_t>(), counts.at("seconds").get<double>());
    if (counts.contains("bytes"))
      fmt::format_to(std::back_inserter(into), ", {} bytes", counts.at("bytes").get<uint64_t>());
    into += '\n';
  }
}

void report_export(const Json& exported, std::string& into) {
  fmt::format_to(
      std::back_inserter(into), "export '{}': {}, {}{}, {} bytes{}, {} clients\n", text(exported, "name"),
      text(exported, "image"), text(exported, "format"),
      exported.at("encrypted").get<bool>() ? " (encrypted)" : "", exported.at("size_bytes").get<uint64_t>(),
      exported.at("read_only").get<bool>() ? ", read-only" : "", exported.at("clients").get<uint64_t>());
  report_counters(exported.at("counters"), into);
}

std::string report_status(const Json& status) {
  std::string report =
      fmt::format("cofre {}, process {}, up for {:.0f} s, {} NBD connections\n", text(status, "version"),
                  status.at("pid").get<int64_t>(), status.at("uptime_seconds").get<double>(),
                  status.at("nbd_connections").get<uint64_t>());
  for (const Json& address : status.at("addresses"))
    report += fmt::format("listening on {}\n", address.get<std::string>());
  for (const Json& exported : status.at("exports")) report_export(exported, report);
  return report;
}

std::string report_bitmaps(const Json& bitmaps) {
  std::string report;
  for (const Json& bitmap : bitmaps)
    report += fmt::format("{}: {} bytes a bit{}\n", text(bitmap, "name"),
                          bitmap.at("granularity_bytes").get<uint64_t>(),
                          bitmap.at("enabled").get<bool>() ? "" : ", disabled");
  return report;
}

std::string report_snapshots(const Json& snapshots) {
  std::string report;
  for (const Json& snapshot : snapshots)
    report += fmt::format("{} '{}' {:%F %T} UTC, {} bytes\n", text(snapshot, "id"), text(snapshot, "name"),
                          fmt::gmtime(snapshot.at("date_seconds").get<std::time_t>()),
                          snapshot.at("disk_bytes").get<uint64_t>());
  return report;
}

}  // namespace

// What only changes something, and did, says nothing.
std::string ctl_report(const std::string& command, const Json& result) {
  if (command == "status") return report_status(result);
  if (command == "bitmap-list") return report_bitmaps(result);
  if (command == "snapshot-list") return report_snapshots(result);
  return "";
}

}  // namespace cofre::tool
