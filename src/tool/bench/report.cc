#include "tool/bench/report.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <fstream>
#include <iterator>

#include "crypto/aes/select.h"
#include "image/size.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

using nlohmann::ordered_json;

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "an unnamed processor";
}

std::string system_name() {
  utsname name = {};
  return uname(&name) == 0 ? fmt::format("{} {} {}", name.sysname, name.release, name.machine) : "unknown";
}

ordered_json figure_json(const SweepFigure& figure) {
  ordered_json json = {{"operation", operation_name(figure.operation)},
                       {"encryption", figure.encryption},
                       {"cluster-size", figure.cluster_bytes},
                       {"program", figure.program}};
  if (const auto seconds = figure.typical_seconds()) {
    json["bytes-per-second"] = static_cast<double>(figure.bytes) / *seconds;
    if (is_scattered(figure.operation))
      json["requests-per-second"] = static_cast<double>(figure.requests) / *seconds;
  }
  json["seconds"] = figure.seconds;
  if (!figure.overhead_seconds.empty()) json["overhead-seconds"] = figure.overhead_seconds;
  return json;
}

ordered_json programs_json(const SweepReport& report) {
  ordered_json programs = {{"cofre", kVersion}, {"aes-kernel", crypto::selected_aes_kernel().name}};
  if (!report.peer_version.empty()) programs["qemu-img"] = report.peer_version;
  return programs;
}

constexpr size_t kColumn = 11;

std::string value_text(const SweepFigure& figure) {
  const auto seconds = figure.typical_seconds();
  if (!seconds) return "-";
  if (is_scattered(figure.operation))
    return fmt::format("{:.0f}", static_cast<double>(figure.requests) / *seconds);
  return fmt::format("{:.3g}", static_cast<double>(figure.bytes) / *seconds / 1e9);
}

std::string row_text(const SweepReport& report, BenchOperation operation, uint64_t cluster_bytes) {
  std::string text = fmt::format("  {:>8}", image::format_size(cluster_bytes));
  for (const SweepFigure& figure : report.figures)
    if (figure.operation == operation && figure.cluster_bytes == cluster_bytes)
      fmt::format_to(std::back_inserter(text), "  {:>{}}", value_text(figure), kColumn);
  return text + "\n";
}

std::string table_text(const SweepReport& report, BenchOperation operation) {
  std::string encryptions = fmt::format("  {:>8}", "cluster");
  std::string programs = fmt::format("  {:>8}", "");
  for (const SweepFigure& figure : report.figures) {
    if (figure.operation != operation || figure.cluster_bytes != report.request.cluster_sizes[0]) continue;
    fmt::format_to(std::back_inserter(encryptions), "  {:>{}}", figure.encryption, kColumn);
    fmt::format_to(std::back_inserter(programs), "  {:>{}}", figure.program, kColumn);
  }
  std::string text =
      fmt::format("\n{}, {}\n{}\n{}\n", operation_name(operation),
                  is_scattered(operation) ? "requests of 4 KiB a second" : "GB/s", encryptions, programs);
  for (const uint64_t cluster_bytes : report.request.cluster_sizes)
    text += row_text(report, operation, cluster_bytes);
  return text;
}

}  // namespace

ordered_json report_json(const SweepReport& report) {
  ordered_json results = ordered_json::array();
  for (const SweepFigure& figure : report.figures) results.push_back(figure_json(figure));
  ordered_json json = {
      {"machine",
       {{"processor", processor_name()}, {"cpus", io::available_cpus()}, {"system", system_name()}}},
      {"programs", programs_json(report)},
      {"directory", report.directory},
      {"file-system", report.file_system},
      {"size", report.request.size_bytes},
      {"rounds", report.request.rounds},
      {"needs-bytes", report.needs_bytes},
      {"results", std::move(results)}};
  if (!report.crypto.is_null()) json["crypto"] = report.crypto;
  return json;
}

std::string report_text(const SweepReport& report) {
  std::string text = fmt::format(
      "{}, {} CPUs; cofre {} ({}){}{}\nImages of {} in {} ({}), {}\n", processor_name(), io::available_cpus(),
      kVersion, crypto::selected_aes_kernel().name, report.peer_version.empty() ? "" : "; ",
      report.peer_version, image::format_size(report.request.size_bytes), report.directory,
      report.file_system,
      report.request.rounds == 1 ? "one round" : fmt::format("medians of {} rounds", report.request.rounds));
  for (const BenchOperation operation : report.request.operations) text += table_text(report, operation);
  return text;
}

}  // namespace cofre::tool
