#include "image/graph.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "image/blkdebug_options.h"
#include "image/drivers.h"
#include "image/sector_padded.h"
#include "image/storage_drivers.h"
#include "layer/align.h"
#include "layer/blkverify.h"
#include "layer/copy_on_read.h"
#include "layer/detect_zeroes.h"
#include "layer/throttle.h"
#include "layer/window.h"

namespace cofre::image {
namespace {

// Filters that see single bytes where the device below sees blocks have nothing to gain: 512 is what formats
// want.
void align_to_sectors(Node& node) {
  node.device = layer::make_aligning(std::move(node.device), kSectorBytes);
}

// The old way to name a blkdebug, where it says all; else empty.
std::string blkdebug_filename(const Node& node, const Options& options) {
  const size_t known = options.has("config") ? 1 : 0;
  if (node.filename.empty() || options.values().size() > known) return "";
  return fmt::format("blkdebug:{}:{}", known > 0 ? options.values().at("config") : "", node.filename);
}

void describe_filter(Node& node, const std::string& driver, const std::string& child,
                     const Options& options) {
  nlohmann::ordered_json description = {{"driver", driver}};
  for (const auto& [key, value] : options.values()) description[key] = options.described(key);
  description[child] = std::move(node.description);
  node.description = std::move(description);
  node.filename.clear();
  node.host_file = nullptr;
}

io::task<Node> open_verified(Walk& walk, Options options, Node below, OpenPolicy policy) {
  Node raw = co_await open_storage(walk, take_child(options, "raw", "blkverify"), policy, "blkverify: raw");
  options.finish("driver blkverify");
  const std::string filename = below.filename.empty() || raw.filename.empty()
                                   ? ""
                                   : fmt::format("blkverify:{}:{}", raw.filename, below.filename);
  describe_filter(below, "blkverify", "test", {});
  below.description["raw"] = std::move(raw.description);
  below.filename = filename;
  below.files.insert(below.files.end(), raw.files.begin(), raw.files.end());
  below.device = layer::make_blkverify(std::move(below.device), std::move(raw.device));
  co_return below;
}

// A format where storage is expected: an image of its own, with a chain of its own.
io::task<Node> open_nested_image(Walk& walk, Options options, OpenPolicy policy, const std::string& what) {
  // What is said of the image's own top is not said of this one.
  policy.no_backing = false;
  policy.for_check = false;
  policy.wrap_file = nullptr;
  policy.label.clear();
  policy.snapshot.reset();
  policy.volume = nullptr;
  policy.unlocked = nullptr;
  policy.writable_backing.reset();
  Walk nested{.policy = policy, .files = walk.files, .chain = {}, .references = walk.references};
  Node node = co_await open_layer(nested, image_name_of(std::move(options), what), policy);
  walk.files = std::move(nested.files);
  // It took its locks.
  node.files.clear();
  node.host_file = nullptr;
  co_return node;
}

void open_raw_over(Node& node, Options& options, const std::string& what) {
  align_to_sectors(node);
  const bool window = options.has("offset") || options.has("size");
  if (window) describe_filter(node, "raw", "file", options);
  node.device = make_sector_padded(std::move(node.device));
  apply_raw_window(node, options);
  options.finish(fmt::format("'{}': format raw", what));
}

}  // namespace

Options take_child(Options& options, const std::string& prefix, const std::string& what) {
  if (const auto reference = options.take(prefix))
    fail(ErrorKind::kNotFound, "'{}': {}={}: there is no node of that name; name the file: {}.filename=PATH",
         what, prefix, *reference, prefix);
  Options child = options.take_prefix(prefix);
  if (child.empty()) fail(ErrorKind::kInvalidArgument, "'{}' names no file: {}.filename=PATH", what, prefix);
  return child;
}

void apply_raw_window(Node& node, Options& options) {
  const auto offset = options.take_size("offset");
  const auto size = options.take_size("size");
  if (!offset && !size) return;
  if (size && !is_aligned<uint64_t>(*size, kSectorBytes))
    fail(ErrorKind::kInvalidArgument, "raw: size={} is not a multiple of 512", *size);
  node.device = make_sector_padded(layer::make_window(std::move(node.device), offset.value_or(0), size));
  node.host_file = nullptr;
}

void apply_node_options(Node& node, const NodeOptions& options) {
  if (options.detect_zeroes == DetectZeroes::kOff) return;
  node.device =
      layer::make_detect_zeroes(std::move(node.device), options.detect_zeroes == DetectZeroes::kUnmap);
}

io::task<Node> open_filter(Walk& walk, const std::string& driver, Options options, Node below,
                           OpenPolicy policy) {
  align_to_sectors(below);
  if (driver == "blkverify")
    co_return co_await open_verified(walk, std::move(options), std::move(below), policy);
  const std::string filename = driver == "blkdebug" ? blkdebug_filename(below, options) : "";
  describe_filter(below, driver, std::string(find_driver(driver)->child), options);
  below.filename = filename;
  if (driver == "throttle") {
    const auto group = options.take("throttle-group");
    if (!group) fail(ErrorKind::kInvalidArgument, "driver throttle needs throttle-group=ID");
    below.device =
        layer::make_throttle(std::move(below.device), policy.secrets->objects().throttle_group(*group));
  } else if (driver == "blkdebug") {
    below.device =
        layer::make_blkdebug(std::move(below.device), take_blkdebug_options(options), &below.breakpoints);
  } else {
    if (!policy.writable)
      fail(ErrorKind::kReadOnly, "driver copy-on-read writes what is read, and '{}' is open for reading only",
           below.device->name());
    below.device = layer::make_copy_on_read(std::move(below.device));
  }
  options.finish(fmt::format("driver {}", driver));
  co_return below;
}

io::task<Node> open_storage(Walk& walk, Options options, OpenPolicy policy, const std::string& what) {
  const std::string name = options.take("driver").value_or("file");
  const Driver* const driver = find_driver(name);
  if (driver == nullptr && name != "raw") {
    options.set("driver", name);
    co_return co_await open_nested_image(walk, std::move(options), policy, what);
  }
  const NodeOptions own = take_node_options(options, policy, what);
  const OpenPolicy child_policy = policy_of_child(policy, own);
  Node node;
  if (driver != nullptr && driver->kind == DriverKind::kStorage) {
    node = open_storage_driver(name, std::move(options), own, policy);
    if (node.host_file != nullptr) walk.files.push_back(node.host_file->identity());
  } else {
    const std::string prefix = driver == nullptr ? "file" : std::string(driver->child);
    Options child = take_child(options, prefix, what);
    // blkverify stands over an image, which is told by its content.
    node = co_await (name == "blkverify" && !child.has("driver")
                         ? open_nested_image(walk, std::move(child), child_policy, what)
                         : open_storage(walk, std::move(child), child_policy, what));
    if (driver == nullptr) {
      open_raw_over(node, options, what);
    } else {
      node = co_await open_filter(walk, name, std::move(options), std::move(node), child_policy);
    }
  }
  apply_node_options(node, own);
  co_return node;
}

}  // namespace cofre::image
