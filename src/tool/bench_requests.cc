// qemu-img bench, cofre bench FILE: the time that many equal requests to an image take.
#include <fmt/format.h>

#include "base/error.h"
#include "image/open.h"
#include "image/size.h"
#include "job/request_load.h"
#include "layer/align.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/probed_raw.h"

namespace cofre::tool {
namespace {

struct BenchArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string count = "75000";
  std::string depth = "64";
  std::string offset = "0";
  std::string request = "4096";
  std::string step = "0";
  std::string pattern = "0";
  std::string flush_interval = "0";
  std::string cache = "writeback";
  std::string engine = "threads";
  bool native_aio = false;
  bool no_drain = false;
  bool write = false;
  bool quiet = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, BenchArguments& into) {
  into.source.add_to(line);
  line.value("-c", into.count, "N", "So many requests (default 75000)");
  line.value("-d", into.depth, "N", "So many of them in flight (default 64)");
  line.value("-o", into.offset, "BYTES", "Where the first request goes (default 0)");
  line.value("-s", into.request, "BYTES", "Size of a request (default 4096)");
  line.value("-S", into.step, "BYTES", "From one request to the next (default: the size of a request)");
  line.flag("-w", into.write, "Write: what the image holds is lost");
  line.value("--pattern", into.pattern, "BYTE", "What is written, 0 to 255 (default 0)");
  line.value("--flush-interval", into.flush_interval, "N", "With -w: a flush after every N requests");
  line.flag("--no-drain", into.no_drain, "Flushes do not wait for the requests before them");
  line.value("-t", into.cache, "CACHE",
             "Cache mode: none, writeback (default), writethrough, directsync, unsafe");
  line.value("-i", into.engine, "MODE", "Taken for compatibility: threads (default), native, io_uring");
  line.flag("-n", into.native_aio, "As -i native");
  line.flag("-q", into.quiet, "Taken for compatibility: has no effect");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

uint64_t parse_bounded_size(const std::string& text, const char* what) {
  const uint64_t bytes = image::parse_size(text, what);
  if (bytes > INT32_MAX)
    fail(ErrorKind::kInvalidArgument, "Invalid {} specified. Must be between 0 and {}.", what, INT32_MAX);
  return bytes;
}

// All but the span, which is the image's length.
job::RequestLoad make_load(const BenchArguments& given) {
  job::RequestLoad load = {.write = given.write};
  load.count = parse_number(given.count, "-c (the request count)", 0, INT32_MAX);
  load.in_flight = static_cast<unsigned>(parse_number(given.depth, "-d (the queue depth)", 1, INT32_MAX));
  load.start_bytes = image::parse_size(given.offset, "offset");
  load.request_bytes = parse_bounded_size(given.request, "buffer size");
  load.step_bytes = parse_bounded_size(given.step, "step_size");
  if (load.step_bytes == 0) load.step_bytes = load.request_bytes;
  load.pattern = static_cast<std::byte>(parse_number(given.pattern, "--pattern", 0, 255));
  load.flush_every = parse_number(given.flush_interval, "--flush-interval", 0, INT32_MAX);
  load.drain_to_flush = !given.no_drain;
  load.progress.cancelled = interrupted;
  if (load.flush_every > 0 && !given.write)
    fail(ErrorKind::kInvalidArgument, "--flush-interval is only available in write tests");
  if (load.flush_every > 0 && load.flush_every < load.in_flight)
    fail(ErrorKind::kInvalidArgument, "Flush interval can't be smaller than depth");
  return load;
}

// The engine is chosen by what the host has; but what QEMU's would refuse is refused.
void check_engine(const BenchArguments& given, image::CacheMode cache) {
  if (given.engine != "threads" && given.engine != "native" && given.engine != "io_uring")
    fail(ErrorKind::kInvalidArgument, "Invalid aio option: {}", given.engine);
  if ((given.engine == "native" || given.native_aio) && !cache.direct)
    fail(ErrorKind::kInvalidArgument,
         "aio=native was specified, but it requires cache.direct=on: add -t none");
}

void print_load(const job::RequestLoad& load) {
  fmt::print("Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n",
             load.count, load.write ? "write" : "read", load.request_bytes, load.in_flight, load.start_bytes,
             load.step_bytes);
  if (load.flush_every > 0) fmt::print("Sending flush every {} requests\n", load.flush_every);
}

io::task<void> bench(const BenchArguments& given, job::RequestLoad load, image::Secrets& secrets,
                     io::Lanes& lanes) {
  const image::CacheMode cache = image::parse_cache_mode(given.cache);
  check_engine(given, cache);
  image::OpenedImage image =
      co_await image::open_image(given.source.name(given.names[0]), {.writable = given.write,
                                                                     .force_share = given.source.force_share,
                                                                     .exclusive = given.write,
                                                                     .cache = cache,
                                                                     .secrets = &secrets});
  if (given.write) warn_of_probed_raw(image);
  image.device = layer::make_aligning(std::move(image.device), 1);
  load.span_bytes = image.device->length_bytes();
  print_load(load);
  if (load.count > 0 && load.start_bytes >= load.span_bytes)
    fail(ErrorKind::kIo, "'{}': Input/output error: the offset {} is not within its {} bytes",
         image.top().path, load.start_bytes, load.span_bytes);
  double seconds = 0;
  if (load.count > 0) {
    const HeedingSignals heeding;
    seconds = co_await job::run_requests(lanes, *image.device, load);
  }
  fmt::print("Run completed in {:.3f} seconds.\n", seconds);
  co_await image.close();
}

}  // namespace

int run_bench_requests(const Session& session, const std::vector<std::string>& arguments) {
  BenchArguments given;
  CommandLine line(session, session.is_cofre() ? "bench requests" : "bench",
                   "[-c N] [-d N] [-f FMT] [-o OFFSET] [-s BYTES] [-S BYTES] [-t CACHE] [-w] [-U] FILE",
                   "Sends many equal requests to a disk image and tells how long they took.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("Expecting one image file name");
  const job::RequestLoad load = make_load(given);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  lanes.run(bench(given, load, secrets, lanes));
  return 0;
}

}  // namespace cofre::tool
