// cofre bench image: does the cluster size matter for the speed of an encrypted image? Measures, and shows
// it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/units.h"
#include "crypto/measure/report.h"
#include "image/describe.h"
#include "image/size.h"
#include "image/target_file.h"
#include "tool/bench/page.h"
#include "tool/bench/report.h"
#include "tool/bench_crypto.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

struct BenchImageArguments {
  std::string cluster_sizes = "512,4k,64k,2M";
  std::string encryptions = "none,aes,luks";
  std::string operations = "convert,read,write,randread,randwrite";
  std::string size = "256M";
  std::string rounds = "3";
  std::string output = "human";
  std::optional<std::string> directory;
  std::optional<std::string> peer;
  std::optional<std::string> html;
  bool progress = false;
  bool quiet = false;
};

void declare(CommandLine& line, BenchImageArguments& into) {
  line.value("--cluster-size", into.cluster_sizes, "SIZES",
             "Cluster sizes of the images, 512 to 2M (default 512,4k,64k,2M)");
  line.value("--encrypt", into.encryptions, "LIST",
             "Of none, aes (the legacy format) and luks (default: all three)");
  line.value("--op", into.operations, "LIST",
             "Of convert, read, write, randread and randwrite (default: all five)");
  line.value("--size", into.size, "SIZE", "Size of the images, a multiple of 1M (default 256M)");
  line.value("--rounds", into.rounds, "N", "How often everything is measured; medians count (default 3)");
  line.value("--dir", into.directory, "DIR",
             "Where the images are made, and removed at the end (default: the folder for temporary files)");
  line.value("--vs", into.peer, "QEMU-IMG",
             "Measure this qemu-img, and the qemu-io beside it, in the same rounds");
  line.value("--output", into.output, "FORM", "human (default) or json");
  line.value("--html", into.html, "FILE", "Also write a page with charts, with the AES kernels' speed too");
  line.flag("-p", into.progress, "Show progress even where standard error is no terminal");
  line.flag("-q", into.quiet, "Print nothing but results and errors");
}

std::vector<std::string> split(const std::string& list, const std::string& option) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string part = list.substr(at, comma - at);
    if (part.empty()) fail(ErrorKind::kInvalidArgument, "{}: '{}' has an empty entry", option, list);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
    at = comma + 1;
  }
  return parts;
}

std::vector<uint64_t> parse_cluster_sizes(const std::string& list) {
  constexpr uint64_t kMostBytes = 2 * kMiB;
  std::vector<uint64_t> sizes;
  for (const std::string& part : split(list, "--cluster-size")) {
    const uint64_t bytes = image::parse_size(part, "cluster size");
    if (!std::has_single_bit(bytes) || bytes < kSectorBytes || bytes > kMostBytes)
      fail(ErrorKind::kInvalidArgument, "--cluster-size: '{}' is no power of two from 512 to 2M", part);
    sizes.push_back(bytes);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

// Those of `all` that the list names, in the order of `all`.
template <typename Value, typename NameOf>
std::vector<Value> choose(const std::string& list, const std::string& option, std::span<const Value> all,
                          NameOf name_of) {
  const std::vector<std::string> parts = split(list, option);
  std::vector<Value> chosen;
  std::string names;
  for (const Value& value : all) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(value));
    if (std::find(parts.begin(), parts.end(), name_of(value)) != parts.end()) chosen.push_back(value);
  }
  if (chosen.size() != parts.size())
    fail(ErrorKind::kInvalidArgument, "{}: '{}' must be a list of {}", option, list, names);
  return chosen;
}

SweepRequest parse_request(const BenchImageArguments& given) {
  constexpr uint64_t kMostRounds = 1000;
  SweepRequest request;
  request.cluster_sizes = parse_cluster_sizes(given.cluster_sizes);
  for (const std::string_view name :
       choose<std::string_view>(given.encryptions, "--encrypt", kBenchEncryptions, [](auto n) { return n; }))
    request.encryptions.emplace_back(name);
  request.operations = choose<BenchOperation>(given.operations, "--op", kBenchOperations, operation_name);
  request.size_bytes = image::parse_size(given.size, "image size");
  if (request.size_bytes == 0 || request.size_bytes % kBenchSizeUnit != 0 ||
      request.size_bytes > kMaxBenchSize)
    fail(ErrorKind::kInvalidArgument, "--size: '{}' is no multiple of 1M up to 1T", given.size);
  request.rounds = static_cast<unsigned>(parse_number(given.rounds, "--rounds", 1, kMostRounds));
  return request;
}

// One line on standard error, written over again and again.
class SweepDisplay {
 public:
  explicit SweepDisplay(bool shown) : shown_(shown), terminal_(isatty(STDERR_FILENO) != 0) {}
  ~SweepDisplay() {
    if (shown_ && terminal_) fmt::print(stderr, "\r\x1b[K");
  }
  SweepDisplay(const SweepDisplay&) = delete;
  SweepDisplay& operator=(const SweepDisplay&) = delete;

  void show(size_t done, size_t total, const std::string& next) const {
    if (!shown_) return;
    const std::string text = fmt::format("measuring: {:3}%  {}", total == 0 ? 0 : done * 100 / total, next);
    fmt::print(stderr, "{}{}{}", terminal_ ? "\r" : "", text, terminal_ ? "\x1b[K" : "\n");
    std::fflush(stderr);
  }

 private:
  bool shown_;
  bool terminal_;
};

void need_room(const SweepReport& report, bool quiet) {
  const uint64_t free = free_bytes(report.directory);
  if (report.needs_bytes > free)
    fail(ErrorKind::kNoSpace,
         "needs at most {} MiB in '{}', which has {} MiB free: give a smaller --size or another --dir",
         report.needs_bytes / kMiB, report.directory, free / kMiB);
  if (!quiet)
    fmt::print(stderr, "needs at most {} MiB in {} ({}), given back at the end\n", report.needs_bytes / kMiB,
               report.directory, report.file_system);
}

// What the bars of the page show: the ciphers of new images and of the legacy format, in long runs.
nlohmann::ordered_json measure_crypto() {
  std::vector<crypto::SpeedCase> cases = crypto::all_speed_cases();
  std::erase_if(cases, [](const crypto::SpeedCase& what) {
    constexpr size_t kRunBytes = 64 * kKiB;
    return what.run_bytes != kRunBytes || what.sector_bytes != kSectorBytes ||
           what.spec.iv != crypto::IvGenerator::plain64;
  });
  return speed_json(crypto::measure_aes(usable_kernels(), cases, {}, [](size_t, size_t) {
    if (interrupted()) fail(ErrorKind::kCancelled, "interrupted");
  }));
}

// Empty at first: whether it can be written is better known before all is measured.
void write_page(const image::TargetFile& target, std::string_view text) {
  errno = 0;
  std::ofstream file(target.working_path(), std::ios::binary | std::ios::trunc);
  file << text;
  if (!file.flush()) fail_errno(errno != 0 ? errno : EIO, "cannot write '{}'", target.path());
}

std::string default_directory() {
  std::error_code trouble;
  const std::filesystem::path path = std::filesystem::temp_directory_path(trouble);
  if (trouble)
    fail(ErrorKind::kNotFound, "there is no folder for temporary files ({}): set TMPDIR, or give --dir",
         trouble.message());
  return path.string();
}

SweepReport measure(const BenchImageArguments& given, const SweepRequest& request) {
  const HeedingSignals heeding;  // the files go before the program does
  SweepReport report;
  report.request = request;
  report.directory = given.directory ? *given.directory : default_directory();
  report.file_system = file_system_name(report.directory);
  report.needs_bytes = sweep_needs_bytes(request);
  std::optional<QemuPeer> peer;
  if (given.peer) report.peer_version = peer.emplace(*given.peer).version();
  need_room(report, given.quiet);
  const SweepDisplay display(given.progress || (!given.quiet && isatty(STDERR_FILENO) != 0));
  const Scratch scratch(report.directory, sweep_file_names());
  io::Lanes lanes;
  report.figures =
      run_sweep(request, peer ? &*peer : nullptr, scratch, lanes,
                [&](size_t done, size_t total, const std::string& next) { display.show(done, total, next); });
  return report;
}

}  // namespace

int run_bench_image(const Session& session, const std::vector<std::string>& arguments) {
  BenchImageArguments given;
  CommandLine line(session, "bench image",
                   "[--cluster-size SIZES] [--encrypt LIST] [--op LIST] [--size SIZE] [--vs qemu-img] "
                   "[--html FILE]",
                   "Measures how fast images are, encrypted and plain, with different cluster sizes.");
  declare(line, given);
  line.parse(arguments);
  const bool json = parse_output_is_json(given.output);
  const SweepRequest request = parse_request(given);
  std::optional<image::TargetFile> page;
  if (given.html) write_page(page.emplace(*given.html), {});
  SweepReport report = measure(given, request);
  if (json || page) report.crypto = measure_crypto();
  if (json)
    fmt::print("{}\n", image::print_json(report_json(report)));
  else
    fmt::print("{}", report_text(report));
  if (page) {
    write_page(*page, page_html(report_json(report)));
    page->commit(false);
  }
  return 0;
}

}  // namespace cofre::tool
