// cofre check: is the image's metadata sound? Exit status as qemu-img check: 0 sound, 1 the check failed, 2
// corrupt, 3 leaked clusters, 63 the format has no checks.
#include "format/qcow2/check.h"

#include <fmt/format.h>

#include "base/error.h"
#include "image/describe.h"
#include "io/lanes.h"
#include "tool/check_backup.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr int kCheckFailed = 1;
constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;
constexpr int kNotSupported = 63;

struct CheckArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string output = "human";
  std::string repair;
  std::optional<std::string> backup;
  std::optional<std::string> restore;
  std::string cache = "writeback";
  bool quiet = false;
  bool percent = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, CheckArguments& into) {
  into.source.add_to(line);
  line.value(
      "-r,--repair", into.repair, "WHAT",
      "Repair: leaks (harmless), or all (may choose wrong where the image is really damaged: have a copy)");
  line.value("--backup", into.backup, "PATH", "With -r: keep what the repair changes in this new file");
  line.value("--restore", into.restore, "PATH", "Put back what --backup kept, instead of a check");
  line.value("--output", into.output, "FORM", "human (default) or json");
  line.value("-T", into.cache, "CACHE",
             "Cache mode of the image: none, writeback (default), writethrough, ...");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

struct CheckOutcome {
  bool supported = false;
  image::Format format = image::Format::kRaw;
  qcow2::CheckResult fixed;   // of the pass that repaired
  qcow2::CheckResult result;  // of the last pass
};

io::task<qcow2::CheckResult> check_once(qcow2::Image& image, const CheckArguments& given, bool repair,
                                        io::Reactor& reader) {
  ProgressDisplay progress(given.percent && !given.quiet ? ProgressDisplay::Style::kPercent
                                                         : ProgressDisplay::Style::kNone);
  qcow2::CheckOptions options;
  options.repair_leaks = repair;
  options.repair_errors = repair && given.repair == "all";
  options.progress = [&progress](uint64_t done, uint64_t total) { progress.show(done, total); };
  if (!given.quiet) options.report = [](const std::string& finding) { tell(finding + "\n"); };
  options.cancelled = interrupted;
  options.reader = &reader;
  const HeedingSignals heeding;
  co_return co_await qcow2::check(image, options);
}

bool repaired_something(const qcow2::CheckResult& result) {
  return result.leaks_fixed != 0 || result.corruptions_fixed != 0;
}

void print_repairs(const qcow2::CheckResult& fixed) {
  fmt::print(
      "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} "
      "corruptions\n\n"
      "Double checking the fixed image now...\n",
      fixed.leaks_fixed, fixed.corruptions_fixed);
}

image::OpenPolicy policy_of(const CheckArguments& given, bool writable, image::Secrets& secrets) {
  return {.writable = writable,
          .force_share = given.source.force_share,
          .no_backing = true,
          .for_check = true,
          .keys = image::Keys::kUnused,
          .cache = image::parse_cache_mode(given.cache),
          .secrets = &secrets};
}

io::task<CheckOutcome> check_image(const CheckArguments& given, bool json, image::Secrets& secrets,
                                   io::Reactor& reader) {
  const bool repair = !given.repair.empty();
  image::OpenPolicy policy = policy_of(given, repair, secrets);
  std::optional<CheckBackup> backup;
  if (given.backup) backup.emplace(*given.backup).add_to(policy);
  image::OpenedImage image = co_await image::open_image(given.source.name(given.names[0]), std::move(policy));
  if (backup) backup->note_identity(image.top());
  CheckOutcome outcome;
  outcome.format = image.top().format;
  if (qcow2::Image* const qcow2 = image.top().qcow2) {
    outcome.supported = true;
    outcome.result = co_await check_once(*qcow2, given, repair, reader);
    if (repaired_something(outcome.result)) {
      outcome.fixed = outcome.result;
      if (!json && !given.quiet) print_repairs(outcome.fixed);
      outcome.result = co_await check_once(*qcow2, given, false, reader);
    }
  }
  const uint64_t kept = backup ? backup->bytes_kept() : 0;
  co_await image.close();
  if (backup && !json && !given.quiet)
    fmt::print("What the repair changed ({} bytes) is kept in '{}': check --restore puts it back.\n", kept,
               *given.backup);
  co_return outcome;
}

io::task<void> restore(const CheckArguments& given, image::Secrets& secrets) {
  image::OpenedImage image = co_await image::open_image(given.source.name(given.names[0]),
                                                        policy_of(given, /*writable=*/true, secrets));
  const uint64_t bytes = co_await restore_backup(*given.restore, image.top());
  co_await image.close();
  if (!given.quiet) fmt::print("{} bytes of '{}' were put back.\n", bytes, given.names[0]);
}

void print_text(const qcow2::CheckResult& result) {
  if (result.corruptions == 0 && result.leaks == 0 && result.check_errors == 0)
    fmt::print("No errors were found on the image.\n");
  if (result.corruptions != 0)
    fmt::print(
        "\n{} errors were found on the image.\n"
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
        result.corruptions);
  if (result.leaks != 0)
    fmt::print(
        "\n{} leaked clusters were found on the image.\n"
        "This means waste of disk space, but no harm to data.\n",
        result.leaks);
  if (result.check_errors != 0)
    fmt::print("\n{} internal errors have occurred during the check.\n", result.check_errors);
  if (result.total_clusters != 0 && result.allocated_clusters != 0) {
    const auto percent = [](uint64_t part, uint64_t whole) {
      return 100 * static_cast<double>(part) / static_cast<double>(whole);
    };
    fmt::print("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
               result.allocated_clusters, result.total_clusters,
               percent(result.allocated_clusters, result.total_clusters),
               percent(result.fragmented_clusters, result.allocated_clusters),
               percent(result.compressed_clusters, result.allocated_clusters));
  }
  if (result.image_end_offset != 0) fmt::print("Image end offset: {}\n", result.image_end_offset);
}

// QEMU leaves out what is zero.
void print_as_json(const CheckOutcome& outcome, const std::string& filename) {
  const qcow2::CheckResult& result = outcome.result;
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  const auto put = [&json](const char* key, uint64_t value) {
    if (value != 0) json[key] = value;
  };
  put("image-end-offset", result.image_end_offset);
  put("compressed-clusters", result.compressed_clusters);
  put("total-clusters", result.total_clusters);
  put("corruptions", result.corruptions);
  put("corruptions-fixed", outcome.fixed.corruptions_fixed);
  json["check-errors"] = result.check_errors;
  put("leaks", result.leaks);
  put("leaks-fixed", outcome.fixed.leaks_fixed);
  put("allocated-clusters", result.allocated_clusters);
  json["filename"] = filename;
  json["format"] = image::format_name(outcome.format);
  put("fragmented-clusters", result.fragmented_clusters);
  fmt::print("{}\n", image::print_json(json));
}

int exit_status(const qcow2::CheckResult& result) {
  if (result.corruptions != 0) return kCorrupt;
  if (result.leaks != 0) return kLeaks;
  return result.check_errors != 0 ? kCheckFailed : 0;
}

}  // namespace

int run_check(const Session& session, const std::vector<std::string>& arguments) {
  CheckArguments given;
  CommandLine line(
      session, "check", "[-f FMT] [-r leaks|all] [--output human|json] [-q] FILE",
      "Checks the metadata of a qcow2 image, and repairs it with -r. Exit status: 0 sound, 1 the check "
      "failed, 2 corrupt, 3 leaked clusters only, 63 the format has no checks.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  if (!given.repair.empty() && given.repair != "leaks" && given.repair != "all")
    line.fail_usage(
        fmt::format("unknown option value for -r (expecting 'leaks' or 'all'): {}", given.repair));
  if (given.backup && given.repair.empty())
    line.fail_usage("--backup goes with -r: only a repair changes the image");
  if (given.restore && !given.repair.empty()) line.fail_usage("--restore and -r exclude each other");
  const bool json = parse_output_is_json(given.output);
  image::Secrets secrets = given.secrets.secrets();  // metadata needs none, but other objects
  io::Lanes lanes(std::min(2u, io::available_cpus()));
  if (given.restore) {
    lanes.run(restore(given, secrets));
    return 0;
  }
  const CheckOutcome outcome = lanes.run(check_image(given, json, secrets, lanes.lane(lanes.count() - 1)));
  if (!outcome.supported) {
    tell(fmt::format("{}: this image format does not support checks ('{}' is {})\n", session.program,
                     given.names[0], image::format_name(outcome.format)));
    return kNotSupported;
  }
  if (json && !given.quiet) print_as_json(outcome, given.names[0]);
  if (!json && !given.quiet) print_text(outcome.result);
  return exit_status(outcome.result);
}

}  // namespace cofre::tool
