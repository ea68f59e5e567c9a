#include "image/storage_drivers.h"

#include <sys/stat.h>

#include "base/error.h"
#include "image/nbd_options.h"
#include "storage/null.h"

namespace cofre::image {
namespace {

// True: image locks are taken.
bool take_locking(Options& options) {
  const std::string locking = options.take("locking").value_or("auto");
  if (locking == "off") return false;
  if (locking == "on" || locking == "auto") return true;
  fail(ErrorKind::kInvalidArgument, "option 'locking' is auto, on or off, not '{}'", locking);
}

// How the system is asked for I/O is the reactor's choice; a wrong wish is refused all the same.
void take_engine(Options& options, const CacheMode& cache) {
  const std::string aio = options.take("aio").value_or("threads");
  if (aio != "threads" && aio != "native" && aio != "io_uring")
    fail(ErrorKind::kInvalidArgument, "option 'aio' is threads, native or io_uring, not '{}'", aio);
  if (aio == "native" && !cache.direct)
    fail(ErrorKind::kInvalidArgument, "aio=native requires cache.direct=on, which was not specified");
  options.take_number("aio-max-batch");
  options.take_bool("drop-cache");
  options.take_bool("x-check-cache-dropped");
}

void require_device(const std::string& path) {
  struct stat about = {};
  if (::stat(path.c_str(), &about) != 0) return;  // opening tells why
  if (!S_ISBLK(about.st_mode) && !S_ISCHR(about.st_mode))
    fail(ErrorKind::kInvalidArgument, "driver host_device: '{}' is neither a block nor a character device",
         path);
}

Node open_file(const std::string& driver, Options options, const NodeOptions& node,
               const OpenPolicy& policy) {
  const std::optional<std::string> path = options.take("filename");
  const bool locking = take_locking(options);
  take_engine(options, node.cache);
  options.finish(fmt::format("driver {}", driver));
  if (!path || path->empty())
    fail(ErrorKind::kInvalidArgument, "driver {} needs a file name: file.filename=PATH", driver);
  if (driver == "host_device") require_device(*path);
  std::unique_ptr<storage::FileDevice> file =
      storage::FileDevice::open(*path, {.read_only = !node.writable,
                                        .direct = node.cache.direct,
                                        .no_flush = node.cache.no_flush,
                                        .write_through = node.cache.write_through,
                                        .blocking = policy.bulk && !node.cache.direct});
  Node opened = {
      .device = nullptr,
      .filename = *path,
      .description = {{"driver", file->is_block_device() ? "host_device" : "file"}, {"filename", *path}},
      .host_file = file.get(),
      .force_share = node.force_share};
  if (locking) opened.files.push_back(file.get());
  opened.device = std::move(file);
  return opened;
}

Node open_null(const std::string& driver, Options options, const NodeOptions& node) {
  nlohmann::ordered_json description = {{"driver", driver}};
  for (const auto& [key, value] : options.values())
    if (key != "latency-ns") description[key] = options.described(key);  // it does not bear on the content
  storage::NullOptions how;
  const std::string name = driver + "://";
  const bool plain = description.size() == 1;
  how.length_bytes = options.take_size("size").value_or(how.length_bytes);
  how.read_zeroes = options.take_bool("read-zeroes").value_or(false);
  how.latency_ns = options.take_number("latency-ns").value_or(0);
  how.read_only = !node.writable;
  options.finish(fmt::format("driver {}", driver));
  return {.device = std::make_unique<storage::NullDevice>(how, name),
          .filename = plain ? name : "",
          .description = std::move(description),
          .tells_nothing = true};
}

Node open_nbd(Options options, const NodeOptions& node, const OpenPolicy& policy) {
  nlohmann::ordered_json description = nbd_description(options);
  storage::NbdOptions how = take_nbd_options(options, policy.secrets->objects());
  options.finish("driver nbd");
  how.read_only = !node.writable;
  how.name = nbd_filename(how);
  return {.device = storage::NbdDevice::open(how),
          .filename = how.name,
          .description = std::move(description),
          .tells_nothing = true};
}

}  // namespace

Node open_storage_driver(const std::string& driver, Options options, const NodeOptions& node,
                         const OpenPolicy& policy) {
  if (driver == "nbd") return open_nbd(std::move(options), node, policy);
  if (driver == "null-co" || driver == "null-aio") return open_null(driver, std::move(options), node);
  return open_file(driver, std::move(options), node, policy);
}

}  // namespace cofre::image
