// cofre bench crypto: the AES kernels beside the limit of the processor, OpenSSL and libgcrypt.
#include "tool/bench_crypto.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "crypto/aes/select.h"
#include "image/describe.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

using nlohmann::ordered_json;

struct BenchCryptoArguments {
  std::optional<std::string> kernel;
  std::string turns = "9";
  std::string output = "human";
};

void declare(CommandLine& line, BenchCryptoArguments& into) {
  line.value("--kernel", into.kernel, "NAME", "Measure this AES kernel only, not all that the processor has");
  line.value(
      "--turns", into.turns, "N",
      "How often each is timed; the best time counts. 9 by default, more where others load the machine");
  line.value("--output", into.output, "FORM", "human (default) or json");
}

std::vector<const crypto::AesKernel*> kernels_to_measure(const std::optional<std::string>& name) {
  if (name) return {&crypto::aes_kernel_named(*name, crypto::cpu_features())};
  return usable_kernels();
}

// Throws Error kCancelled after Ctrl-C. A line on standard error when that is a terminal.
void show_progress(size_t done, size_t total) {
  if (interrupted()) fail(ErrorKind::kCancelled, "interrupted");
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  if (!terminal || done * 100 / total == (done - 1) * 100 / total) return;
  fmt::print(stderr, "\rmeasuring: {:3}%{}", done * 100 / total, done == total ? "\r\x1b[K" : "");
  std::fflush(stderr);
}

ordered_json limit_json(const crypto::LimitFigure& limit) {
  return {{"kernel", limit.kernel->name},
          {"register-bits", 8 * limit.kernel->register_bytes},
          {"cipher", cipher_algorithm_name(limit.algorithm)},
          {"bytes-per-second", limit.speed.best}};
}

ordered_json row_json(const crypto::SpeedRow& row) {
  ordered_json figures = ordered_json::array();
  for (const crypto::SpeedFigure& figure : row.figures) {
    if (figure.speed.best == 0) continue;
    ordered_json entry = {{"by", figure.by},
                          {"bytes-per-second", figure.speed.best},
                          {"median-bytes-per-second", figure.speed.median}};
    if (figure.share_of_limit > 0) entry["share-of-limit"] = figure.share_of_limit;
    figures.push_back(std::move(entry));
  }
  return {{"cipher", row.what.spec.to_string()},
          {"direction", crypto::direction_name(row.what.direction)},
          {"sector-bytes", row.what.sector_bytes},
          {"run-bytes", row.what.run_bytes},
          {"speeds", std::move(figures)}};
}

}  // namespace

std::vector<const crypto::AesKernel*> usable_kernels() {
  std::vector<const crypto::AesKernel*> kernels;
  for (const crypto::AesKernel* kernel : crypto::aes_kernels())
    if (has_all(crypto::cpu_features(), kernel->needs)) kernels.push_back(kernel);
  return kernels;
}

ordered_json speed_json(const crypto::SpeedReport& report) {
  ordered_json limits = ordered_json::array();
  for (const crypto::LimitFigure& limit : report.limits) limits.push_back(limit_json(limit));
  ordered_json rows = ordered_json::array();
  for (const crypto::SpeedRow& row : report.rows) rows.push_back(row_json(row));
  return {{"limits", std::move(limits)}, {"runs", std::move(rows)}};
}

int run_bench_crypto(const Session& session, const std::vector<std::string>& arguments) {
  constexpr uint64_t kMostTurns = 10000;
  BenchCryptoArguments given;
  CommandLine line(session, "bench crypto", "[--kernel NAME] [--turns N] [--output human|json]",
                   "Measures the AES kernels on one core, beside what the processor's AES instructions do "
                   "alone (the limit), OpenSSL and libgcrypt.");
  declare(line, given);
  line.parse(arguments);
  const bool json = parse_output_is_json(given.output);
  const crypto::SpeedEffort effort = {
      .turns = static_cast<int>(parse_number(given.turns, "--turns", 1, kMostTurns))};
  const crypto::SpeedReport report =
      crypto::measure_aes(kernels_to_measure(given.kernel), crypto::all_speed_cases(), effort, show_progress);
  if (json)
    fmt::print("{}\n", image::print_json(speed_json(report)));
  else
    fmt::print("{}", crypto::speed_text(report));
  return 0;
}

}  // namespace cofre::tool
