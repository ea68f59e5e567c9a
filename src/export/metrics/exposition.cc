#include "export/metrics/exposition.h"

#include <fmt/format.h>

#include <array>
#include <iterator>

namespace cofre::metrics {
namespace {

using exporting::Op;
using Exports = std::vector<std::shared_ptr<const exporting::Export>>;
using Totals = std::array<exporting::OpTotals, exporting::kOps>;

constexpr double kNsPerSecond = 1e9;

struct Counted {
  std::string label;  // export="...", escaped
  const exporting::Export* exported;
  Totals totals;
};

class Writer {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(text_), "# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  template <typename... Arguments>
  void line(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Arguments>(arguments)...);
    text_ += '\n';
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

std::vector<Counted> count(const Exports& exports) {
  std::vector<Counted> counted;
  for (const auto& exported : exports) {
    if (!exported->activity) continue;
    Counted one = {.label = fmt::format("export=\"{}\"", escape_label(exported->name)),
                   .exported = exported.get(),
                   .totals = {}};
    for (unsigned op = 0; op < exporting::kOps; ++op)
      one.totals[op] = exported->activity->totals(static_cast<Op>(op));
    counted.push_back(std::move(one));
  }
  return counted;
}

void write_server(Writer& writer, const ServerFacts& server) {
  writer.family("cofre_build_info", "gauge", "The version of the server.");
  writer.line("cofre_build_info{{version=\"{}\"}} 1", escape_label(server.version));
  writer.family("process_start_time_seconds", "gauge", "When the server was started, since the epoch.");
  writer.line("process_start_time_seconds {:.3f}", server.start_time_seconds);
  writer.family("cofre_nbd_connections", "gauge", "Connections of NBD clients, those in the handshake too.");
  writer.line("cofre_nbd_connections {}", server.nbd_connections);
}

void write_exports(Writer& writer, const std::vector<Counted>& all) {
  writer.family("cofre_export_size_bytes", "gauge", "The length of the disk.");
  for (const Counted& one : all)
    writer.line("cofre_export_size_bytes{{{}}} {}", one.label, one.exported->device->length_bytes());
  writer.family("cofre_export_clients", "gauge", "Clients that may send requests now.");
  for (const Counted& one : all)
    writer.line("cofre_export_clients{{{}}} {}", one.label, one.exported->activity->clients());
}

template <typename Get>
void write_counter(Writer& writer, const std::vector<Counted>& all, std::string_view name,
                   std::string_view help, unsigned ops, Get get) {
  writer.family(name, "counter", help);
  for (const Counted& one : all)
    for (unsigned op = 0; op < ops; ++op)
      writer.line("{}{{{},op=\"{}\"}} {}", name, one.label, exporting::op_name(static_cast<Op>(op)),
                  get(one.totals[op]));
}

void write_histogram(Writer& writer, const Counted& one, unsigned op) {
  constexpr std::string_view kName = "cofre_export_request_duration_seconds";
  const exporting::OpTotals& totals = one.totals[op];
  const std::string labels = fmt::format("{},op=\"{}\"", one.label, exporting::op_name(static_cast<Op>(op)));
  uint64_t so_far = 0;
  for (unsigned i = 0; i + 1 < exporting::kLatencyBuckets; ++i) {
    so_far += totals.took[i];
    writer.line("{}_bucket{{{},le=\"{}\"}} {}", kName, labels, static_cast<double>(uint64_t{1} << i) / 1e6,
                so_far);
  }
  writer.line("{}_bucket{{{},le=\"+Inf\"}} {}", kName, labels, totals.requests);
  writer.line("{}_sum{{{}}} {:.9f}", kName, labels, static_cast<double>(totals.nanoseconds) / kNsPerSecond);
  writer.line("{}_count{{{}}} {}", kName, labels, totals.requests);
}

}  // namespace

std::string escape_label(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '"') escaped += '\\';
    if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string exposition(const ServerFacts& server, const Exports& exports) {
  const std::vector<Counted> all = count(exports);
  Writer writer;
  write_server(writer, server);
  write_exports(writer, all);
  write_counter(writer, all, "cofre_export_requests_total", "Requests that were answered.", exporting::kOps,
                [](const auto& totals) { return totals.requests; });
  write_counter(writer, all, "cofre_export_request_errors_total",
                "Requests that were answered with an error.", exporting::kOps,
                [](const auto& totals) { return totals.errors; });
  // Reads and writes come first; what others were about is not moved.
  write_counter(writer, all, "cofre_export_bytes_total", "Bytes that were read and written.", 2,
                [](const auto& totals) { return totals.bytes; });
  writer.family("cofre_export_request_duration_seconds", "histogram",
                "How long requests took, from their last byte to their answer.");
  for (const Counted& one : all)
    for (unsigned op = 0; op < exporting::kOps; ++op) write_histogram(writer, one, op);
  return writer.take();
}

}  // namespace cofre::metrics
