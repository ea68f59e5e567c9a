// cofre measure: how large a new image's file will be.
#include "image/measure.h"

#include <fmt/format.h>

#include "base/error.h"
#include "format/qcow2/create.h"
#include "image/describe.h"
#include "image/size.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/creating.h"

namespace cofre::tool {
namespace {

struct MeasureArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string target_format = "raw";
  std::vector<std::string> options;
  std::optional<std::string> size;
  std::optional<std::string> snapshot;
  std::string output = "human";
  std::vector<std::string> names;
};

void declare(CommandLine& line, MeasureArguments& into) {
  into.source.add_to(line);
  line.value("--size", into.size, "SIZE", "Measure an empty image of this size, instead of a copy of FILE");
  line.value("-O", into.target_format, "FMT", "Format of the new image: raw (default), qcow2 or luks");
  line.values("-o", into.options, "OPTIONS", "Options of the format: name=value,...; -o help lists them");
  line.value("-l", into.snapshot, "SNAPSHOT",
             "Measure what this internal snapshot of FILE has: its ID or name, or "
             "snapshot.id=ID,snapshot.name=NAME");
  line.value("--output", into.output, "FORM", "human (default) or json");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image that would be converted");
}

void check_arguments(const CommandLine& line, const MeasureArguments& given) {
  if (given.names.size() > 1) line.fail_usage("At most one filename argument is allowed.");
  if (given.names.empty() && (given.source.image_opts || given.source.format || given.snapshot))
    line.fail_usage("--image-opts, -f, and -l require a filename argument.");
  if (given.size && !given.names.empty())
    line.fail_usage("--size N cannot be used together with a filename.");
  if (!given.size && given.names.empty())
    line.fail_usage("Either --size N or one filename must be specified.");
}

// What the options say of the new image, as far as it bears on its size.
image::CreateSettings make_settings(const MeasureArguments& given, image::Format format) {
  image::CreateSettings settings = image::parse_create_options(format, merge_options(given.options));
  if (format != image::Format::kQcow2) return settings;
  qcow2::CreateOptions& qcow2 = settings.qcow2;
  qcow2.data_file.reset();
  qcow2.data_file_raw = false;
  qcow2::CreateOptions geometry = qcow2;
  geometry.backing_file.reset();
  geometry.preallocation = qcow2::Preallocation::kOff;
  qcow2::validate(geometry);
  return settings;
}

void print_sizes(const image::FileSizes& sizes, bool json) {
  if (!json) {
    fmt::print("required size: {}\nfully allocated size: {}\n", sizes.required_bytes,
               sizes.fully_allocated_bytes);
    if (sizes.bitmaps_bytes) fmt::print("bitmaps size: {}\n", *sizes.bitmaps_bytes);
    return;
  }
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  if (sizes.bitmaps_bytes) object["bitmaps"] = *sizes.bitmaps_bytes;
  object["required"] = sizes.required_bytes;
  object["fully-allocated"] = sizes.fully_allocated_bytes;
  fmt::print("{}\n", image::print_json(object));
}

io::task<image::FileSizes> measure_file(const MeasureArguments& given, image::Format format,
                                        const image::CreateSettings& settings, image::Secrets& secrets) {
  image::OpenedImage source =
      co_await image::open_image(given.source.name(given.names[0]), {.force_share = given.source.force_share,
                                                                     .keys = image::Keys::kUnused,
                                                                     .secrets = &secrets,
                                                                     .snapshot = given.snapshot});
  const image::FileSizes sizes = co_await image::measure_conversion(format, settings, source);
  co_await source.close();
  co_return sizes;
}

}  // namespace

int run_measure(const Session& session, const std::vector<std::string>& arguments) {
  MeasureArguments given;
  CommandLine line(session, "measure",
                   "[-O FMT] [-o OPTIONS] [--output human|json] (--size SIZE | [-f FMT] FILE)",
                   "Tells how large the file of a new image will be: at once, and once the guest has written "
                   "everywhere. Needs no passphrase, not even where -o encrypt.format=luks is given.");
  declare(line, given);
  line.parse(arguments);
  const bool json = parse_output_is_json(given.output);
  if (print_options_help(given.options, given.target_format, /*named=*/false)) return 0;
  check_arguments(line, given);
  const image::Format format = image::parse_format(given.target_format);
  image::require_writable_format(format);
  const image::CreateSettings settings = make_settings(given, format);
  image::Secrets secrets = given.secrets.secrets();
  if (given.size) {
    print_sizes(image::measure_new(format, settings, image::parse_size(*given.size, "image size")), json);
    return 0;
  }
  io::Lanes lanes(1);
  print_sizes(lanes.run(measure_file(given, format, settings, secrets)), json);
  return 0;
}

}  // namespace cofre::tool
