// cofre commit: writes the changes that an image holds into its backing file, or one further below.
#include "job/commit.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "image/open.h"
#include "image/size.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct CommitArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string cache = "writeback";
  std::optional<std::string> base;
  std::optional<std::string> rate;
  bool keep = false;
  bool percent = false;
  bool quiet = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, CommitArguments& into) {
  line.value("-f,--format", into.source.format, "FMT", "Format of the image: raw, qcow2 or luks");
  line.flag("--image-opts", into.source.image_opts, "The image is named by options: driver=qcow2,...");
  line.value(
      "-b", into.base, "BASE",
      "Commit into this image of the backing chain rather than the image's own backing file; implies -d");
  line.flag("-d", into.keep, "Do not empty the image afterwards");
  line.value("-t", into.cache, "CACHE",
             "Cache mode: none, writeback (default), writethrough, directsync or unsafe");
  line.value("-r", into.rate, "RATE", "Write at most so many bytes a second (suffixes k, M, G, ...)");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image whose changes are committed");
}

const image::Layer& find_base(const image::OpenedImage& image, const CommitArguments& given) {
  const auto writable = std::find_if(image.chain.begin() + 1, image.chain.end(),
                                     [](const image::Layer& layer) { return layer.writable; });
  if (writable != image.chain.end()) return *writable;
  if (image.chain.size() == 1 && !given.base)
    fail(ErrorKind::kInvalidArgument, "'{}': Image does not have a backing file", given.names[0]);
  if (given.base)
    fail(ErrorKind::kNotFound, "Did not find '{}' in the backing chain of '{}'", *given.base, given.names[0]);
  fail(ErrorKind::kReadOnly, "the backing file '{}' is read-only", image.chain[1].path);
}

job::CommitOptions make_options(const CommitArguments& given, ProgressDisplay& progress) {
  job::CommitOptions options;
  if (given.rate) options.bytes_per_second = image::parse_size(*given.rate, "rate limit");
  options.progress = progress_on(progress);
  return options;
}

io::task<void> commit_open(const Session& session, const CommitArguments& given, image::OpenedImage& image,
                           io::Lanes& lanes) {
  const image::Layer& base = find_base(image, given);
  ProgressDisplay progress(ProgressDisplay::choose(session.is_cofre(), given.percent, given.quiet));
  {
    const HeedingSignals heeding;
    co_await job::commit(lanes, *image.device, *base.device, make_options(given, progress));
  }
  if (!given.keep && !given.base) co_await image.top().qcow2->make_empty();
  progress.finish();
}

io::task<void> commit(const Session& session, const CommitArguments& given, image::Secrets& secrets,
                      io::Lanes& lanes) {
  image::OpenedImage image = co_await image::open_image(given.source.name(given.names[0]),
                                                        {.writable = true,
                                                         .writable_backing = given.base.value_or(""),
                                                         .exclusive = true,
                                                         .cache = image::parse_cache_mode(given.cache),
                                                         .secrets = &secrets});
  co_await image::close_after(image, commit_open(session, given, image, lanes));
}

}  // namespace

int run_commit(const Session& session, const std::vector<std::string>& arguments) {
  CommitArguments given;
  CommandLine line(
      session, "commit", "[-f FMT] [-b BASE] [-d] [-p] [-q] FILE",
      "Writes the changes that an image holds into its backing file, which grows if need be, and empties the "
      "image. Until the backing file has everything safely, the image keeps it too.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("Expecting one image file name");
  if (given.rate) image::parse_size(*given.rate, "rate limit");
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  lanes.run(commit(session, given, secrets, lanes));
  if (!given.quiet) fmt::print("Image committed.\n");
  return 0;
}

}  // namespace cofre::tool
