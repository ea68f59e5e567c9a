// cofre rebase: gives an image another backing file, or none, and keeps what it shows.
#include "job/rebase.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "image/open.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct RebaseArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string cache = "writeback";
  std::string backing_cache = "writeback";
  bool unsafe = false;
  bool compressed = false;
  bool percent = false;
  bool quiet = false;
  std::vector<std::string> names;

  bool detaches() const noexcept { return !backing || backing->empty(); }
};

void declare(CommandLine& line, RebaseArguments& into) {
  into.source.add_to(line);
  line.value("-b", into.backing, "FILE",
             "The new backing file, beside the image unless its path is absolute; empty: none");
  line.value("-F", into.backing_format, "FMT", "Format of the new backing file; needed with one");
  line.flag(
      "-u", into.unsafe,
      "Unsafe: change the name only, for a backing file that was moved or shows the same; needs no key");
  line.flag("-c,--compress", into.compressed,
            "Store what is written compressed, where that makes it shorter");
  line.value("-t", into.cache, "CACHE",
             "Cache mode of the image: none, writeback (default), writethrough, directsync or unsafe");
  line.value("-T", into.backing_cache, "CACHE", "Cache mode of the backing files (default writeback)");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

// What the header would refuse, before any work is done for it.
void check_change(const image::Layer& top, const RebaseArguments& given) {
  const std::string name = given.backing.value_or("");
  if (top.qcow2 == nullptr)
    fail(ErrorKind::kUnsupported,
         "Could not change the backing file to '{}': Operation not supported: '{}' is {}, which has none",
         name, top.path, image::format_name(top.format));
  if (given.detaches()) return;
  if (!given.backing_format)
    fail(ErrorKind::kInvalidArgument,
         "Could not change the backing file to '{}': backing format must be specified (-F raw, -F qcow2 or "
         "-F luks)",
         name);
  if (name.size() > qcow2::kMaxBackingNameBytes)
    fail(ErrorKind::kLimit, "Could not change the backing file: its name has {} bytes; qcow2 allows {}",
         name.size(), qcow2::kMaxBackingNameBytes);
}

struct Run {
  const Session& session;
  const RebaseArguments& given;
  image::Secrets& secrets;
  io::Lanes& lanes;
};

image::ImageName new_backing_name(const RebaseArguments& given, const image::Layer& top) {
  return image::parse_image_name(image::resolve_beside(top.path, *given.backing),
                                 image::parse_format(*given.backing_format));
}

// The layer of the image's own chain that this is, or null.
block::Device* find_below(const image::OpenedImage& image, const image::ImageName& name) {
  const auto path = name.options.values().find("file.filename");
  if (path == name.options.values().end()) return nullptr;
  for (size_t depth = 1; depth < image.chain.size(); ++depth)
    if (storage::same_file(image.chain[depth].path, path->second)) return image.chain[depth].device;
  return nullptr;
}

io::task<image::OpenedImage> open_new_backing(const Run& run, image::ImageName name) {
  try {
    co_return co_await image::open_image(std::move(name),
                                         {.force_share = run.given.source.force_share,
                                          .exclusive = true,
                                          .cache = image::parse_cache_mode(run.given.backing_cache),
                                          .secrets = &run.secrets});
  } catch (const Error& error) {
    throw error.with_context(fmt::format("Could not open new backing file '{}'", *run.given.backing));
  }
}

io::task<void> keep_content(const Run& run, image::OpenedImage& image) {
  const RebaseArguments& given = run.given;
  job::RebaseOptions options;
  image::OpenedImage opened;
  if (!given.detaches()) {
    image::ImageName name = new_backing_name(given, image.top());
    options.new_backing = find_below(image, name);
    options.new_is_below = options.new_backing != nullptr;
    if (!options.new_is_below) {
      opened = co_await open_new_backing(run, std::move(name));
      options.new_backing = opened.device.get();
    }
  }
  options.grain_bytes = image.top().qcow2->header().subcluster_bytes();
  options.compressed = given.compressed;
  ProgressDisplay progress(ProgressDisplay::choose(run.session.is_cofre(), given.percent, given.quiet));
  options.progress = progress_on(progress);
  const HeedingSignals heeding;
  co_await job::rebase(run.lanes, *image.device, std::move(options));
  if (opened.device) co_await opened.close();
  progress.finish();
}

io::task<void> rebase_open(const Run& run, image::OpenedImage& image) {
  const RebaseArguments& given = run.given;
  check_change(image.top(), given);
  if (!given.unsafe) co_await keep_content(run, image);
  co_await image.top().qcow2->change_backing(given.backing, given.backing_format);
}

io::task<void> rebase(const Run& run) {
  const RebaseArguments& given = run.given;
  image::OpenedImage image = co_await image::open_image(
      given.source.name(given.names[0]), {.writable = true,
                                          .force_share_below = given.source.force_share,
                                          .no_backing = given.unsafe,
                                          .exclusive = true,
                                          .keys = given.unsafe ? image::Keys::kUnused : image::Keys::kNeeded,
                                          .cache = image::parse_cache_mode(given.cache),
                                          .cache_below = image::parse_cache_mode(given.backing_cache),
                                          .secrets = &run.secrets});
  co_await image::close_after(image, rebase_open(run, image));
}

}  // namespace

int run_rebase(const Session& session, const std::vector<std::string>& arguments) {
  RebaseArguments given;
  CommandLine line(
      session, "rebase", "[-f FMT] [-u] [-p] [-q] -b FILE [-F FMT] FILE",
      "Gives an image another backing file, or none. What the image shows stays: where the new backing file "
      "differs from the old one, the old one's content is written into the image first.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("Expecting one image file name");
  if (!given.unsafe && !given.backing)
    line.fail_usage("Must specify backing file (-b) or use unsafe mode (-u)");
  if (given.backing_format) image::parse_format(*given.backing_format);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  lanes.run(rebase({session, given, secrets, lanes}));
  return 0;
}

}  // namespace cofre::tool
