#include "tool/bench/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "image/create.h"
#include "image/open.h"
#include "image/size.h"
#include "tool/bench/child.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

constexpr std::string_view kSecretId = "s0";
constexpr std::string_view kPassphrase = "as good as any other";
// The time that a passphrase costs is not what is measured: as little of it as LUKS permits.
constexpr std::string_view kIterTimeOption = "encrypt.iter-time=1";

constexpr const char* kOurs = "cofre";
constexpr const char* kQemuImg = "qemu-img";
constexpr const char* kQemuIo = "qemu-io";

constexpr const char* kSource = "source.raw";
constexpr const char* kImage = "image.qcow2";
constexpr const char* kPassphraseFile = "passphrase";
constexpr const char* kCommands = "commands";

constexpr uint64_t kSequentialBytes = kBenchSizeUnit;
constexpr uint64_t kScatteredBytes = 4 * kKiB;
constexpr uint64_t kMostScattered = 32768;  // requests
constexpr unsigned kInFlight = 16;
constexpr uint64_t kCommandBytes = 40;  // one of qemu-io's, at most

// A kind of image.
struct Kind {
  std::string encryption;
  uint64_t cluster_bytes;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

bool wanted(const SweepRequest& request, BenchOperation operation) {
  return std::count(request.operations.begin(), request.operations.end(), operation) > 0;
}

// Whether the operation goes to an image that is full already.
bool wants_full_image(BenchOperation operation) {
  return operation != BenchOperation::kConvert && operation != BenchOperation::kWrite;
}

void write_file(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  if (!file.flush()) fail(ErrorKind::kIo, "cannot write '{}'", path);
}

// Nothing in it is zero, equal, or can be compressed.
void write_source(const std::string& path, uint64_t size_bytes) {
  std::mt19937_64 random(size_bytes);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  std::vector<uint64_t> words(kBenchSizeUnit / sizeof(uint64_t));
  for (uint64_t at = 0; at < size_bytes && !interrupted(); at += kBenchSizeUnit) {
    for (uint64_t& word : words) word = random();
    std::string bytes(kBenchSizeUnit, '\0');
    std::memcpy(bytes.data(), words.data(), bytes.size());
    file << bytes;
  }
  if (!file.flush()) fail(ErrorKind::kIo, "cannot write '{}'", path);
}

io::task<void> create_empty(const std::string& path, const Kind& kind, uint64_t size_bytes,
                            image::Secrets& secrets) {
  std::string options = fmt::format("cluster_size={}", kind.cluster_bytes);
  if (kind.encryption != "none")
    options += fmt::format(",encrypt.format={},encrypt.key-secret={}", kind.encryption, kSecretId);
  if (kind.encryption == "luks") options += fmt::format(",{}", kIterTimeOption);
  image::CreateRequest request;
  request.path = path;
  request.format = image::Format::kQcow2;
  request.options = image::Options::parse_list(options);
  request.size_bytes = size_bytes;
  const image::CreatePlan plan = co_await image::plan_image(std::move(request));
  image::TargetFile target(plan.path);
  const RemoveOnSignal guard(target.temporary_path());
  co_await image::create_image(plan, target, secrets, {.no_flush = true});
  target.commit(false);
}

io::task<double> send(io::Lanes& lanes, const std::string& image, const job::RequestLoad& load,
                      image::Secrets& secrets) {
  image::OpenedImage opened = co_await image::open_image(
      image::parse_image_options(image),
      {.writable = load.write, .exclusive = true, .cache = {.no_flush = true}, .secrets = &secrets});
  const double seconds = co_await job::run_requests(lanes, *opened.device, load);
  co_await opened.close();
  co_return seconds;
}

// A comma ends an option, unless it is doubled.
std::string escape_commas(const std::string& path) {
  std::string text;
  for (const char c : path) text += c == ',' ? ",," : std::string(1, c);
  return text;
}

class Sweep {
 public:
  Sweep(const SweepRequest& request, QemuPeer* peer, const Scratch& scratch, io::Lanes& lanes,
        const SweepProgress& progress)
      : request_(request), peer_(peer), scratch_(scratch), lanes_(lanes), progress_(progress) {
    secrets_.add(std::string(kSecretId), crypto::SecretBytes::copy_of(std::as_bytes(std::span(kPassphrase))));
    for (const BenchOperation operation : request_.operations)
      for (const std::string& encryption : request_.encryptions)
        for (const uint64_t cluster_bytes : request_.cluster_sizes)
          add_figures(operation, {encryption, cluster_bytes});
    steps_ = figures_.size() * request_.rounds;
  }

  std::vector<SweepFigure> run() {
    note("the source");
    write_file(scratch_.path(kPassphraseFile), kPassphrase);
    write_source(scratch_.path(kSource), request_.size_bytes);
    for (unsigned round = 0; round < request_.rounds; ++round) {
      measure_overheads();
      for (const uint64_t cluster_bytes : request_.cluster_sizes)
        for (const std::string& encryption : request_.encryptions) measure_kind({encryption, cluster_bytes});
    }
    return std::move(figures_);
  }

 private:
  void add_figures(BenchOperation operation, const Kind& kind) {
    SweepFigure figure = {.operation = operation,
                          .encryption = kind.encryption,
                          .cluster_bytes = kind.cluster_bytes,
                          .program = kOurs,
                          .seconds = {},
                          .overhead_seconds = {},
                          .bytes = request_.size_bytes};
    if (operation != BenchOperation::kConvert) {
      const job::RequestLoad load = load_of(operation, request_.size_bytes);
      figure.requests = load.count;
      figure.bytes = load.count * load.request_bytes;
    }
    figures_.push_back(figure);
    if (peer_ == nullptr) return;
    figure.program = operation == BenchOperation::kConvert || kind.encryption == "none" ? kQemuImg : kQemuIo;
    figures_.push_back(figure);
  }

  // What qemu-io spends on its commands alone.
  void measure_overheads() {
    for (const BenchOperation operation : request_.operations) {
      const bool used = std::any_of(figures_.begin(), figures_.end(), [&](const SweepFigure& figure) {
        return figure.operation == operation && figure.program == kQemuIo;
      });
      if (!used) continue;
      note("what qemu-io's commands cost");
      const double seconds =
          peer_->send_to_null(load_of(operation, request_.size_bytes), scratch_.path(kCommands));
      for (SweepFigure& figure : figures_)
        if (figure.operation == operation && figure.program == kQemuIo)
          figure.overhead_seconds.push_back(seconds);
    }
  }

  void measure_kind(const Kind& kind) {
    if (wanted(request_, BenchOperation::kConvert)) {
      measure(BenchOperation::kConvert, kind);
    } else if (std::any_of(request_.operations.begin(), request_.operations.end(), wants_full_image)) {
      make_empty(kind);
      convert(kind);
    }
    for (const BenchOperation operation : request_.operations)
      if (wants_full_image(operation)) measure(operation, kind);
    if (wanted(request_, BenchOperation::kWrite)) measure(BenchOperation::kWrite, kind);
    drop_image();
  }

  // Cofre last, so that what is read afterwards is of its making.
  void measure(BenchOperation operation, const Kind& kind) {
    for (auto figure = figures_.rbegin(); figure != figures_.rend(); ++figure) {
      if (figure->operation != operation || figure->encryption != kind.encryption ||
          figure->cluster_bytes != kind.cluster_bytes)
        continue;
      note(fmt::format("{} {} {} {}", figure->program, operation_name(operation), kind.encryption,
                       image::format_size(kind.cluster_bytes)));
      if (!wants_full_image(operation)) make_empty(kind);
      figure->seconds.push_back(time(*figure, kind));
      ++done_;
    }
  }

  double time(const SweepFigure& figure, const Kind& kind) {
    const bool ours = figure.program == kOurs;
    if (figure.operation == BenchOperation::kConvert)
      return ours ? convert(kind) : peer_->convert(secret_object(), source_options(), image_options(kind));
    job::RequestLoad load = load_of(figure.operation, request_.size_bytes);
    if (figure.program == kQemuImg) return peer_->send_plain(load, image_options(kind));
    if (!ours) return peer_->send(load, secret_object(), image_options(kind), scratch_.path(kCommands));
    load.progress.cancelled = interrupted;
    return lanes_.run(send(lanes_, image_options(kind), load, secrets_));
  }

  // By a process of its own, as qemu-img's: the start of a program and the opening of the image count for
  // both.
  double convert(const Kind& kind) const {
    return run_child_well(
               {.program = kOwnProgram,
                .arguments = {"convert", "--object", secret_object(), "-n", "-t", "unsafe", "--image-opts",
                              "--target-image-opts", source_options(), image_options(kind)}})
        .seconds;
  }

  void make_empty(const Kind& kind) {
    drop_image();
    lanes_.run(create_empty(scratch_.path(kImage), kind, request_.size_bytes, secrets_));
    image_there_ = true;
  }

  void drop_image() {
    if (image_there_) scratch_.remove(kImage);
    image_there_ = false;
  }

  std::string secret_object() const {
    return fmt::format("secret,id={},file={}", kSecretId, escape_commas(scratch_.path(kPassphraseFile)));
  }
  std::string source_options() const {
    return "driver=raw,file.filename=" + escape_commas(scratch_.path(kSource));
  }
  std::string image_options(const Kind& kind) const {
    std::string options = "driver=qcow2,file.filename=" + escape_commas(scratch_.path(kImage));
    if (kind.encryption != "none") options += fmt::format(",encrypt.key-secret={}", kSecretId);
    return options;
  }

  void note(const std::string& next) const {
    if (interrupted()) fail(ErrorKind::kCancelled, "interrupted");
    if (progress_) progress_(done_, steps_, next);
  }

  const SweepRequest& request_;
  QemuPeer* peer_;
  const Scratch& scratch_;
  io::Lanes& lanes_;
  const SweepProgress& progress_;
  image::Secrets secrets_;
  std::vector<SweepFigure> figures_;
  size_t steps_ = 0;
  size_t done_ = 0;
  bool image_there_ = false;
};

}  // namespace

std::string_view operation_name(BenchOperation operation) noexcept {
  switch (operation) {
    case BenchOperation::kConvert:
      return "convert";
    case BenchOperation::kRead:
      return "read";
    case BenchOperation::kWrite:
      return "write";
    case BenchOperation::kRandRead:
      return "randread";
    case BenchOperation::kRandWrite:
      return "randwrite";
  }
  return {};
}

bool is_scattered(BenchOperation operation) noexcept {
  return operation == BenchOperation::kRandRead || operation == BenchOperation::kRandWrite;
}

std::optional<double> SweepFigure::typical_seconds() const {
  const double overhead = overhead_seconds.empty() ? 0 : median(overhead_seconds);
  const double rest = median(seconds) - overhead;
  // Less of it would be a difference of noises.
  const double least = overhead / 2;
  return rest > least ? std::optional(rest) : std::nullopt;
}

job::RequestLoad load_of(BenchOperation operation, uint64_t size_bytes) {
  job::RequestLoad load = {.request_bytes = kSequentialBytes,
                           .step_bytes = kSequentialBytes,
                           .span_bytes = size_bytes,
                           .count = size_bytes / kSequentialBytes,
                           .in_flight = kInFlight};
  load.write = operation == BenchOperation::kWrite || operation == BenchOperation::kRandWrite;
  if (is_scattered(operation)) {
    load.request_bytes = kScatteredBytes;
    load.step_bytes = job::scattering_step(size_bytes, kScatteredBytes);
    load.count = std::min(size_bytes / kScatteredBytes, kMostScattered);
  }
  return load;
}

std::vector<std::string> sweep_file_names() {
  return {kSource, kImage, kPassphraseFile, kCommands};
}

uint64_t sweep_needs_bytes(const SweepRequest& request) {
  uint64_t metadata = 0;
  for (const uint64_t cluster : request.cluster_sizes) {
    // An L2 entry of 8 bytes and a refcount of 2 a cluster, and as much again while the refcount table grows;
    // and some clusters of every kind of metadata that are never full.
    constexpr uint64_t kEntryBytes = 16;
    constexpr uint64_t kLooseClusters = 16;
    metadata = std::max(metadata, request.size_bytes / cluster * kEntryBytes + kLooseClusters * cluster);
  }
  constexpr uint64_t kLuksHeaderBytes = 4 * kMiB;  // about 2 MiB
  const uint64_t commands = std::max(kMostScattered, request.size_bytes / kSequentialBytes) * kCommandBytes;
  return align_up(2 * request.size_bytes + metadata + kLuksHeaderBytes + commands, kMiB);
}

std::vector<SweepFigure> run_sweep(const SweepRequest& request, QemuPeer* peer, const Scratch& scratch,
                                   io::Lanes& lanes, const SweepProgress& progress) {
  return Sweep(request, peer, scratch, lanes, progress).run();
}

}  // namespace cofre::tool
