// cofre compare: do two images show the same bytes? Exit status as qemu-img compare: 0 identical, 1
// different, 2 an image cannot be opened, 3 allocation cannot be told, 4 reading failed.
#include "job/compare.h"

#include <fmt/format.h>

#include "base/error.h"
#include "image/open.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr int kIdentical = 0;
constexpr int kDifferent = 1;
constexpr int kOpenFailed = 2;
constexpr int kMapFailed = 3;
constexpr int kReadFailed = 4;

struct CompareArguments {
  SourceOptions source;  // of the first image
  std::optional<std::string> second_format;
  SecretOptions secrets;
  std::string cache = "writeback";
  bool strict = false;
  bool percent = false;
  bool quiet = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, CompareArguments& into) {
  into.source.add_to(line);
  line.value("-F", into.second_format, "FMT", "Format of the second image");
  line.flag("-s", into.strict, "Strict: sizes and allocation must be equal too");
  line.value("-T", into.cache, "CACHE",
             "Cache mode of both: none, writeback (default), writethrough, unsafe, ...");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors: the exit status tells");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The two images");
}

io::task<image::OpenedImage> open_source(image::ImageName name, const CompareArguments& given,
                                         image::Secrets& secrets) {
  return image::open_image(std::move(name), {.force_share = given.source.force_share,
                                             .cache = image::parse_cache_mode(given.cache),
                                             .secrets = &secrets});
}

void print_result(const job::CompareResult& result, bool strict) {
  using enum job::CompareOutcome;
  if (result.sizes_differ && !strict) fmt::print("Warning: Image size mismatch!\n");
  switch (result.outcome) {
    case kIdentical:
      fmt::print("Images are identical.\n");
      break;
    case kContentMismatch:
      fmt::print("Content mismatch at offset {}!\n", result.offset);
      break;
    case kAllocationMismatch:
      fmt::print("Strict mode: Offset {} block status mismatch!\n", result.offset);
      break;
    case kSizeMismatch:
      fmt::print("Strict mode: Image size mismatch!\n");
      break;
  }
}

job::CompareOptions make_options(const CompareArguments& given, ProgressDisplay& progress) {
  job::CompareOptions options;
  options.strict = given.strict;
  options.progress = progress_on(progress);
  return options;
}

int complain(const Session& session, const Error& error, int status) {
  tell(fmt::format("{}: {}\n", session.program, error.what()));
  return interrupted() ? interrupted_exit_status() : status;
}

io::task<int> compare(const Session& session, const CompareArguments& given, image::Secrets& secrets,
                      io::Lanes& lanes) {
  SourceOptions second = given.source;
  second.format = given.second_format;
  image::OpenedImage a;
  image::OpenedImage b;
  try {
    a = co_await open_source(given.source.name(given.names[0]), given, secrets);
    b = co_await open_source(second.name(given.names[1]), given, secrets);
  } catch (const Error& error) {
    co_return complain(session, error, kOpenFailed);
  }
  job::CompareResult result;
  ProgressDisplay progress(ProgressDisplay::choose(session.is_cofre(), given.percent, given.quiet));
  try {
    const HeedingSignals heeding;
    result = co_await job::compare(lanes, *a.device, *b.device, make_options(given, progress));
  } catch (const job::MapFailed& error) {
    progress.finish();
    co_return complain(session, error, kMapFailed);
  } catch (const Error& error) {
    progress.finish();
    co_return complain(session, error, kReadFailed);
  }
  progress.finish();
  co_await a.close();
  co_await b.close();
  if (!given.quiet) print_result(result, given.strict);
  co_return result.outcome == job::CompareOutcome::kIdentical ? kIdentical : kDifferent;
}

}  // namespace

int run_compare(const Session& session, const std::vector<std::string>& arguments) {
  CompareArguments given;
  CommandLine line(
      session, "compare", "[-f FMT] [-F FMT] [-s] [-p] [-q] [-U] FILE1 FILE2",
      "Compares what two images show; where one is longer, its rest must be zero. Exit status: 0 identical, "
      "1 different, 2 an image cannot be opened, 3 allocation cannot be told, 4 reading failed.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 2) line.fail_usage("expecting two image file names");
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  return lanes.run(compare(session, given, secrets, lanes));
}

}  // namespace cofre::tool
