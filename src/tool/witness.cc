// cofre witness: which AES instructions does a program really execute?
#include "witness/witness.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "crypto/cpu.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/witness_report.h"

namespace cofre::tool {
namespace {

constexpr uint64_t kLongestWatch_s = 30 * 24 * 3600;

struct WitnessArguments {
  std::optional<std::string> pid;
  std::optional<std::string> seconds;
  bool sample = false;
  std::string output = "human";
  std::optional<std::string> report;
  std::vector<std::string> command;
};

void declare(CommandLine& line, WitnessArguments& into) {
  line.value("-p,--pid", into.pid, "PID", "Watch this running process, not a command");
  line.value("--seconds", into.seconds, "N",
             "So long: then let go of the process, or ask the command to end (SIGTERM)");
  line.flag("--sample", into.sample,
            "Estimate the share of time in each AES routine instead; changes nothing");
  line.value("--output", into.output, "FORM", "human (default) or json");
  line.value("--report", into.report, "FILE", "Write the report there, not to standard output");
  line.arguments(into.command, "COMMAND", "A program to start and its arguments, behind --");
}

// What stands behind "--" is the command's, whatever it looks like.
void parse(CommandLine& line, WitnessArguments& given, const std::vector<std::string>& arguments) {
  const auto dashes = std::ranges::find(arguments, "--");
  line.parse({arguments.begin(), dashes});
  if (dashes != arguments.end()) given.command.insert(given.command.end(), dashes + 1, arguments.end());
  if (given.command.empty() == !given.pid.has_value())
    line.fail_usage("expecting either -- and a command, or --pid");
}

witness::Options options_of(const WitnessArguments& given) {
  witness::Options options = {.command = given.command};
  if (given.pid) options.pid = static_cast<pid_t>(parse_number(*given.pid, "--pid", 1, INT_MAX));
  if (given.seconds)
    options.duration = std::chrono::seconds(parse_number(*given.seconds, "--seconds", 1, kLongestWatch_s));
  options.stop_signal = [] { return interrupted() ? interrupted_exit_status() - 128 : 0; };
  return options;
}

witness::CpuAes cpu_aes() {
  const crypto::CpuFeatures& cpu = crypto::cpu_features();
  return {.aesni = cpu.aes, .vaes256 = cpu.vaes && cpu.avx2, .vaes512 = cpu.vaes && cpu.avx512f};
}

void write_report(const std::string& text, const std::optional<std::string>& path) {
  if (!path) {
    fmt::print("{}", text);
    return;
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path->c_str(), "we"), &std::fclose);
  if (file == nullptr || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0)
    fail_errno(errno, "the report cannot be written to '{}'", *path);
}

}  // namespace

int run_witness(const Session& session, const std::vector<std::string>& arguments) {
  WitnessArguments given;
  CommandLine line(session, "witness",
                   "[--sample] [--seconds N] [--output human|json] -- COMMAND... | --pid PID",
                   "Tells which AES instructions a program really executes: their form, the width of the "
                   "vectors, the library, the function. A running process goes on unharmed. Exit status: 0 "
                   "when the report could be made, however the command ended.");
  declare(line, given);
  parse(line, given, arguments);
  const bool json = parse_output_is_json(given.output);
  const witness::Options options = options_of(given);
  const HeedingSignals heeding;
  const witness::Report report = given.sample ? witness::sample(options) : witness::watch(options);
  write_report(json ? witness_report_as_json(report, cpu_aes()) : witness_report_as_text(report, cpu_aes()),
               given.report);
  return 0;
}

}  // namespace cofre::tool
