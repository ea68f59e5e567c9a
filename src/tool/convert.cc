// cofre convert: copies what images show into a new image of any format.
#include "job/convert.h"

#include <fmt/format.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "crypto/aes/select.h"
#include "image/copy_bitmaps.h"
#include "image/create.h"
#include "image/drivers.h"
#include "image/size.h"
#include "tool/command_line.h"
#include "tool/creating.h"
#include "tool/interrupt.h"
#include "tool/new_target.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct ConvertArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::optional<std::string> target_format;
  std::vector<std::string> options;
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  std::string target_cache = "writeback";
  std::string source_cache = "writeback";
  std::optional<std::string> sparse;
  std::optional<std::string> parallel;
  std::optional<std::string> snapshot;
  std::optional<std::string> rate;
  bool target_image_opts = false;
  bool target_is_zero = false;
  bool existing_target = false;
  bool compressed = false;
  bool bitmaps = false;
  bool skip_broken_bitmaps = false;
  bool percent = false;
  bool quiet = false;
  bool out_of_order = false;
  bool copy_offloading = false;
  bool salvage = false;
  bool stats = false;
  std::vector<std::string> names;  // the sources and, last, the target
};

void declare_target(CommandLine& line, ConvertArguments& into) {
  line.value("-O", into.target_format, "FMT", "Format of the target: raw (default), qcow2 or luks");
  line.values("-o", into.options, "OPTIONS",
              "Options of the target's format: name=value,...; -o help lists them");
  line.value("-B", into.backing_file, "FILE",
             "Backing file of the target: what the source has from its own backing file is not copied");
  line.value("-F", into.backing_format, "FMT", "Format of that backing file; needed with -B");
  line.value("-t", into.target_cache, "CACHE",
             "Cache mode of the target: none (O_DIRECT), writeback (default), writethrough, directsync, or "
             "unsafe (do "
             "not wait for the disk)");
  line.flag("-n", into.existing_target, "Write into the existing target, in place, rather than to create it");
  line.flag("--target-image-opts", into.target_image_opts, "The target is named by options; needs -n");
  line.flag("--target-is-zero", into.target_is_zero, "The existing target reads as zero; needs -n");
  line.flag("--bitmaps", into.bitmaps,
            "Copy the source's persistent dirty bitmaps too (from qcow2 to qcow2, one source)");
  line.flag("--skip-broken-bitmaps", into.skip_broken_bitmaps,
            "With --bitmaps: leave out inconsistent ones, with a warning, rather than to fail");
  line.value("-S", into.sparse, "BYTES",
             "Runs of zeros so long are not written as data (default 4k); 0: write everything as data");
}

void declare(CommandLine& line, ConvertArguments& into) {
  into.source.add_to(line);
  declare_target(line, into);
  line.value("-l", into.snapshot, "SNAPSHOT",
             "Copy what this internal snapshot of the source has: its ID or name, or "
             "snapshot.id=ID,snapshot.name=NAME");
  line.value("-T", into.source_cache, "CACHE", "Cache mode of the sources (default writeback)");
  line.value("-m", into.parallel, "N", "Requests in flight, 1 to 16 (default: chosen by the number of CPUs)");
  line.flag("-W", into.out_of_order, "Let the target allocate in whatever order the data comes");
  line.flag("-C", into.copy_offloading,
            "Have the kernel copy (raw to raw; where it can): zeros in the data are not looked for then");
  line.value("-r", into.rate, "RATE", "Write at most so many bytes a second (suffixes k, M, G, ...)");
  line.flag("--salvage", into.salvage,
            "Take what cannot be read for zeros, with a warning for each sector, rather than to fail");
  line.flag("-c", into.compressed, "Store each cluster compressed, where that makes it shorter (qcow2 only)");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  line.flag("--stats", into.stats, "Tell on standard error which AES kernel ran, and how fast");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The source (several are concatenated), and last the target");
}

void check_copy_offloading(const CommandLine& line, const ConvertArguments& given) {
  if (!given.copy_offloading) return;
  if (given.compressed) line.fail_usage("Cannot enable copy offloading when -c is used");
  if (given.sparse) line.fail_usage("Cannot enable copy offloading when -S is used");
  if (given.salvage) line.fail_usage("Cannot use copy offloading in salvaging mode");
}

void check_arguments(const CommandLine& line, const ConvertArguments& given) {
  if (given.names.size() < 2) line.fail_usage("must specify a source and a target image file name");
  if (!given.existing_target && given.target_image_opts)
    line.fail_usage("--target-image-opts requires use of -n flag");
  if (!given.existing_target && given.target_is_zero)
    line.fail_usage("--target-is-zero requires use of -n flag");
  if (given.target_image_opts && given.target_format)
    line.fail_usage("--target-image-opts and -O are mutually exclusive: give driver=FMT in the options");
  if (given.existing_target && !given.options.empty())
    line.fail_usage("-n writes into an image that exists: -o has no effect there");
  if (given.backing_file && !given.backing_format && !given.existing_target)
    line.fail_usage("use of backing file requires explicit backing format: add -F raw, -F qcow2 or -F luks");
  if (given.skip_broken_bitmaps && !given.bitmaps)
    line.fail_usage("Use of --skip-broken-bitmaps requires --bitmaps");
  if (given.bitmaps && given.names.size() != 2)
    line.fail_usage("Copying bitmaps only possible with single source");
  if (given.snapshot && given.names.size() != 2)
    line.fail_usage("No support for concatenating multiple snapshot");
  check_copy_offloading(line, given);
  if (given.rate) image::parse_size(*given.rate, "rate limit");
  if (given.backing_file && given.names.size() != 2)
    line.fail_usage("-B makes no sense with several sources");
}

using Sources = std::vector<image::OpenedImage>;

io::task<Sources> open_sources(const ConvertArguments& given, image::Secrets& secrets) {
  Sources sources;
  for (size_t i = 0; i + 1 < given.names.size(); ++i)
    sources.push_back(co_await image::open_image(given.source.name(given.names[i]),
                                                 {.force_share = given.source.force_share,
                                                  .exclusive = true,
                                                  .cache = image::parse_cache_mode(given.source_cache),
                                                  .secrets = &secrets,
                                                  .snapshot = given.snapshot}));
  co_return sources;
}

uint64_t total_bytes(const Sources& sources) {
  uint64_t total = 0;
  for (const image::OpenedImage& source : sources) {
    const auto sum = checked_add(total, align_up<uint64_t>(source.device->length_bytes(), kSectorBytes));
    if (!sum) fail(ErrorKind::kLimit, "the sources together are too large");
    total = *sum;
  }
  return total;
}

void refuse_sources_as_target(const Sources& sources, const std::string& target_path) {
  for (const image::OpenedImage& source : sources) refuse_source_as_target(source, target_path);
}

// The layer of the source that holds what the target's backing file shows. As with qemu-img, a backing file
// that is not in the source's chain is taken for a copy of the one that is.
block::Device* source_base(const image::OpenedImage& source, const std::string& backing_path) {
  for (size_t depth = 1; depth < source.chain.size(); ++depth) {
    if (storage::same_file(source.chain[depth].path, backing_path)) return source.chain[depth].device;
  }
  return source.chain.size() > 1 ? source.chain[1].device : nullptr;
}

// qemu-img's refusals, and why.
void check_compression(image::Format format) {
  if (format == image::Format::kQcow2) return;
  fail(ErrorKind::kUnsupported,
       "Compression not supported for this file format: -c needs qcow2, and the target is {}",
       image::format_name(format));
}

void check_compression(const image::CreatePlan& plan) {
  check_compression(plan.format);
  if (plan.encrypted())
    fail(ErrorKind::kUnsupported,
         "Compression and encryption not supported at the same time: compressed clusters would be stored in "
         "plain text");
  if (plan.settings.preallocation != qcow2::Preallocation::kOff)
    fail(ErrorKind::kUnsupported,
         "Compression and preallocation not supported at the same time: nobody knows how long compressed "
         "clusters will be");
  if (plan.settings.qcow2.data_file)
    fail(ErrorKind::kUnsupported,
         "Compression not supported with a data file: clusters lie there at their own offsets, in full "
         "length");
}

constexpr uint64_t kLargestSparseBytes = 16 * kMiB;

uint64_t parse_sparse_size(const std::string& text) {
  const uint64_t bytes = image::parse_size(text, "sparse size");
  if (bytes % kSectorBytes != 0 || bytes > kLargestSparseBytes)
    fail(ErrorKind::kInvalidArgument,
         "-S {}: a sparse size is a multiple of {} bytes up to {}, or 0 to write everything as data", text,
         kSectorBytes, kLargestSparseBytes);
  return bytes;
}

// Warns as qemu-img does, and lets an interrupt end even the slow way through a bad region.
job::TellUnreadable tell_unreadable(const Session& session, bool quiet) {
  return [program = session.program, quiet](const job::Unreadable& loss) {
    if (!quiet)
      tell(fmt::format("{}: warning: error while reading {}offset {}: {}\n", program,
                       loss.is_map ? "block status at " : "", loss.offset, loss.error.what()));
    if (interrupted()) fail(ErrorKind::kCancelled, "the conversion was cancelled");
  };
}

job::ConvertOptions make_options(const Session& session, const ConvertArguments& given,
                                 ProgressDisplay& progress) {
  job::ConvertOptions options;
  options.sparse_bytes = parse_sparse_size(given.sparse.value_or("4k"));
  if (given.rate) options.bytes_per_second = image::parse_size(*given.rate, "rate limit");
  if (given.salvage) options.unreadable = tell_unreadable(session, given.quiet);
  options.compressed = given.compressed;
  options.no_overwrite = !session.is_cofre();  // as qemu-img, which cannot replace a cluster so
  if (given.parallel) options.parallel = static_cast<unsigned>(parse_number(*given.parallel, "-m", 1, 16));
  // Compressed clusters are packed side by side, and written as they are done.
  options.out_of_order = given.out_of_order || given.compressed;
  options.progress = progress_on(progress);
  return options;
}

using Bitmaps = std::vector<qcow2::BitmapEntry>;

Bitmaps choose_bitmaps(const Session& session, const ConvertArguments& given, const Sources& sources) {
  if (!given.bitmaps) return {};
  image::BitmapsToCopy plan = image::plan_bitmaps(sources[0], given.skip_broken_bitmaps);
  for (const std::string& name : plan.skipped)
    tell(fmt::format("{}: warning: Skipping inconsistent bitmap '{}'\n", session.program, name));
  return std::move(plan.bitmaps);
}

void check_holds_bitmaps(const ConvertArguments& given, image::Format format, bool version3) {
  if (!given.bitmaps || (format == image::Format::kQcow2 && version3)) return;
  fail(ErrorKind::kUnsupported, "Format driver '{}' does not support bitmaps{}", image::format_name(format),
       format == image::Format::kQcow2 ? " with compat=0.10" : "");
}

struct Run {
  const Session& session;
  const ConvertArguments& given;
  image::Secrets& secrets;
  io::Lanes& lanes;
};

void print_stats(uint64_t bytes, const job::ConvertStats& stats) {
  const double speed = stats.seconds > 0 ? static_cast<double>(bytes) / stats.seconds / 1e9 : 0;
  tell(fmt::format("AES kernel: {}\n{} bytes in {:.3f} s ({:.2f} GB/s)\n", crypto::selected_aes_kernel().name,
                   bytes, stats.seconds, speed));
  if (stats.bytes_offloaded > 0) tell(fmt::format("{} bytes copied by the kernel\n", stats.bytes_offloaded));
}

// The file that a raw image is, byte by byte; null for any other image.
storage::FileDevice* plain_file(const image::OpenedImage& image) {
  const image::Layer& top = image.top();
  if (top.format != image::Format::kRaw || top.host_file == nullptr) return nullptr;
  // A filter over it sees what passes.
  const image::Driver* const driver = image::find_driver(top.driver);
  if (driver != nullptr && driver->kind == image::DriverKind::kFilter) return nullptr;
  // With offset= or size= it is a part of the file.
  const uint64_t whole = align_up<uint64_t>(top.host_file->length_bytes(), kSectorBytes);
  return top.device->length_bytes() == whole ? top.host_file : nullptr;
}

io::task<void> copy(const Run& run, Sources& sources, image::OpenedImage& target, job::ConvertOptions options,
                    const Bitmaps& bitmaps, ProgressDisplay& progress) {
  std::vector<block::Device*> devices;
  for (const image::OpenedImage& source : sources) devices.push_back(source.device.get());
  if (run.given.copy_offloading && sources.size() == 1) {
    options.source_file = plain_file(sources[0]);
    options.target_file = plain_file(target);
  }
  const HeedingSignals heeding;
  const job::ConvertStats stats =
      co_await job::convert(run.lanes, devices, *target.device, std::move(options));
  if (run.given.bitmaps) co_await image::copy_bitmaps(sources[0], bitmaps, target);
  co_await target.close();
  for (image::OpenedImage& source : sources) co_await source.close();
  progress.finish();
  if (run.given.stats) print_stats(total_bytes(sources), stats);
}

image::CreateRequest make_request(const ConvertArguments& given, uint64_t bytes) {
  image::CreateRequest request = {.path = given.names.back(),
                                  .format = image::parse_format(given.target_format.value_or("raw")),
                                  .options = merge_options(given.options),
                                  .size_bytes = std::nullopt,
                                  .backing_file = given.backing_file,
                                  .backing_format = given.backing_format};
  request.options.take_size("size");  // the source's size counts, as with qemu-img
  request.size_bytes = bytes;
  return request;
}

io::task<void> convert_to_new(const Run& run, Sources& sources) {
  const ConvertArguments& given = run.given;
  const image::CacheMode cache = image::parse_cache_mode(given.target_cache);
  refuse_sources_as_target(sources, given.names.back());
  const image::CreatePlan plan = co_await image::plan_image(make_request(given, total_bytes(sources)));
  if (given.compressed) check_compression(plan);
  const Bitmaps bitmaps = choose_bitmaps(run.session, given, sources);
  check_holds_bitmaps(given, plan.format, plan.settings.qcow2.version >= 3);
  if (const auto& data_file = plan.settings.qcow2.data_file)
    refuse_sources_as_target(sources, image::resolve_beside(plan.path, *data_file));
  refuse_header_alone(plan);
  note_legacy_encryption(run.session, plan);

  image::TargetFile file(plan.path, plan.elsewhere);
  const RemoveOnSignal guard(file.temporary_path());
  ProgressDisplay progress(ProgressDisplay::choose(run.session.is_cofre(), given.percent, given.quiet));
  job::ConvertOptions options = make_options(run.session, given, progress);
  options.target_reads_zero = new_target_reads_zero(plan, file);
  const std::optional<std::string>& backing = plan.settings.qcow2.backing_file;
  options.target_has_backing = backing.has_value();
  if (backing && sources.size() == 1)
    options.source_base = source_base(sources[0], image::resolve_beside(plan.path, *backing));
  const image::NewVolume volume = co_await image::create_image(plan, file, run.secrets, cache);
  try {
    image::OpenedImage target = co_await image::open_image(image::name_of_new_image(plan, file),
                                                           {.writable = true,
                                                            .exclusive = true,
                                                            .cache = cache,
                                                            .secrets = &run.secrets,
                                                            .label = plan.path,
                                                            .volume = volume ? &*volume : nullptr});
    co_await copy(run, sources, target, std::move(options), bitmaps, progress);
  } catch (const Error& error) {
    throw file.renamed(error);
  }
  file.commit(!cache.no_flush);
}

io::task<void> convert_to_existing(const Run& run, Sources& sources) {
  const ConvertArguments& given = run.given;
  const std::string& text = given.names.back();
  const image::ImageName name =
      given.target_image_opts
          ? image::parse_image_options(text)
          : image::parse_image_name(text, image::parse_format(given.target_format.value_or("raw")));
  const auto path = name.options.values().find("file.filename");
  if (path != name.options.values().end()) refuse_sources_as_target(sources, path->second);
  image::OpenedImage target =
      co_await image::open_image(name, {.writable = true,
                                        .exclusive = true,
                                        .cache = image::parse_cache_mode(given.target_cache),
                                        .secrets = &run.secrets});
  if (given.compressed) check_compression(target.top().format);
  const Bitmaps bitmaps = choose_bitmaps(run.session, given, sources);
  check_holds_bitmaps(given, target.top().format,
                      target.top().qcow2 != nullptr && target.top().qcow2->header().version >= 3);
  if (target.device->length_bytes() < total_bytes(sources))
    fail(ErrorKind::kInvalidArgument, "the target '{}' is smaller ({} bytes) than the source ({} bytes)",
         text, target.device->length_bytes(), total_bytes(sources));

  ProgressDisplay progress(ProgressDisplay::choose(run.session.is_cofre(), given.percent, given.quiet));
  job::ConvertOptions options = make_options(run.session, given, progress);
  options.target_reads_zero = given.target_is_zero;
  options.target_has_backing = target.device->backing() != nullptr;
  if (given.backing_file) options.source_base = source_base(sources[0], *given.backing_file);
  co_await copy(run, sources, target, std::move(options), bitmaps, progress);
}

io::task<void> convert(const Run& run) {
  Sources sources = co_await open_sources(run.given, run.secrets);
  if (run.given.existing_target) {
    co_await convert_to_existing(run, sources);
  } else {
    co_await convert_to_new(run, sources);
  }
}

}  // namespace

int run_convert(const Session& session, const std::vector<std::string>& arguments) {
  ConvertArguments given;
  CommandLine line(
      session, "convert", "[-f FMT] [-O FMT] [-o OPTIONS] [-B FILE -F FMT] [-n] [-p] SOURCE... TARGET",
      "Copies disk images into one of any format, encrypted or not. A new target appears under its name "
      "only when it is complete; an existing one is replaced then.");
  declare(line, given);
  line.parse(arguments);
  if (print_options_help(given.options, given.target_format.value_or("raw"), given.names.size() > 1))
    return 0;
  check_arguments(line, given);
  // Who does not say what an image is does not know it; qemu-img's users rely on its chains.
  if (session.is_cofre() && !given.source.format && !given.source.image_opts)
    given.source.usual_trust = image::References::Trust::kBeside;
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  lanes.run(convert({session, given, secrets, lanes}));
  return 0;
}

}  // namespace cofre::tool
