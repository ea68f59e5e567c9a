#include "image/open.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"
#include "image/drivers.h"
#include "image/graph.h"
#include "image/open_foreign.h"
#include "image/protocol_name.h"
#include "image/qcow2_options.h"
#include "image/sector_padded.h"
#include "image/snapshot_param.h"
#include "layer/align.h"

namespace cofre::image {
namespace {

// What the options of one image say beside where its file is.
struct LayerOptions {
  std::string path;
  std::optional<std::string> key_secret;
  std::optional<std::string> encrypt_format;
  Options data_file;
  Options header;  // of a luks image whose header is detached
  Options backing;
  bool backing_given = false;
  bool on_host = false;  // its storage is a file of this host
  NodeOptions node;
  Qcow2Settings qcow2;
  foreign::VpcSize vpc_size = foreign::VpcSize::kByCreator;
};

std::string chain_text(const std::vector<Layer>& chain) {
  std::string text;
  for (const Layer& layer : chain) text += fmt::format("'{}' -> ", layer.path);
  return text;
}

void take_qcow2_options(Options& options, LayerOptions& into) {
  into.key_secret = options.take("encrypt.key-secret");
  into.encrypt_format = options.take("encrypt.format");
  into.qcow2 = take_qcow2_settings(options);
  const std::optional<std::string> none = options.take("backing");
  if (none && !none->empty())
    fail(ErrorKind::kUnsupported,
         "backing={}: references to nodes are not supported; use backing.file.filename=PATH", *none);
  into.backing = options.take_prefix("backing");
  into.backing_given = none.has_value() || !into.backing.empty();
  if (options.has("data-file") || options.has_prefix("data-file"))
    into.data_file = take_child(options, "data-file", into.path);
}

void take_of_format(Options& options, Format format, const ImageName& name, LayerOptions& into) {
  if (format == Format::kQcow2) take_qcow2_options(options, into);
  if (format == Format::kLuks) {
    into.key_secret = options.take("key-secret");
    if (options.has("header") || options.has_prefix("header"))
      into.header = take_child(options, "header", into.path);
  }
  if (format == Format::kVpc) into.vpc_size = take_vpc_size(options);
  options.finish(fmt::format("'{}': format {}", name.text, format_name(format)));
}

// Below the top an image is somebody's backing file, of whatever format: it must not change.
storage::FileLocks locks_for(bool is_raw_top, const OpenPolicy& policy) {
  if (policy.headers_only && (is_raw_top || policy.force_share)) return storage::FileLocks::none();
  if (policy.force_share) return storage::FileLocks::force_share();
  if (is_raw_top && !policy.exclusive) return storage::FileLocks::raw(!policy.writable);
  return storage::FileLocks::format(!policy.writable);
}

// How a vmdk's other files are opened.
storage::FileOptions extent_file_options(const OpenPolicy& policy) {
  return {.read_only = !policy.writable,
          .direct = policy.cache.direct,
          .no_flush = policy.cache.no_flush,
          .write_through = policy.cache.write_through,
          .blocking = policy.bulk && !policy.cache.direct,
          .locks = locks_for(/*is_raw_top=*/false, policy)};
}

// Formats are made of sectors; direct I/O may want larger requests.
std::unique_ptr<block::Device> sector_aligned(std::unique_ptr<block::Device> file) {
  return layer::make_aligning(std::move(file), kSectorBytes);
}

// `node` was just opened: the last of the walk's files is its own.
void refuse_loop(const Walk& walk, const Node& node, const std::string& path) {
  if (node.host_file != nullptr) {
    const auto last = walk.files.end() - 1;
    if (std::find(walk.files.begin(), last, node.host_file->identity()) != last)
      fail(ErrorKind::kInvalidArgument, "the backing chain comes back to itself: {}'{}'",
           chain_text(walk.chain), path);
  }
  if (walk.chain.size() >= walk.policy.max_chain)
    fail(ErrorKind::kLimit, "the backing chain of '{}' is longer than {} images", walk.chain.front().path,
         walk.policy.max_chain);
}

void lock_files(const Node& node, bool is_raw_top, OpenPolicy policy) {
  policy.force_share = policy.force_share || node.force_share;
  for (storage::FileDevice* const file : node.files) file->set_locks(locks_for(is_raw_top, policy));
}

// Where a LUKS header lies.
struct LuksPlace {
  block::Device& file;
  uint64_t offset;
  uint64_t area_bytes;
};

// Tries what opened an image above in the chain, so that one passphrase of a whole chain is asked for, or
// named by its id, once. (With the legacy aes nothing would tell that it is the wrong one.)
io::task<std::optional<luks::Luks1Volume>> unlock_as_before(LuksPlace place, const LayerOptions& options,
                                                            const OpenPolicy& policy,
                                                            const std::string& label) {
  if (options.key_secret) co_return std::nullopt;
  const std::optional<ConstBytes> likely = policy.secrets->likely_answer(label);
  if (!likely) co_return std::nullopt;
  try {
    co_return co_await luks::luks1_unlock(place.file, place.offset, place.area_bytes, *likely);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kWrongSecret) throw;
  }
  co_return std::nullopt;
}

io::task<void> unlock(qcow2::Image& image, const LayerOptions& options, const OpenPolicy& policy,
                      const std::string& label) {
  if (!image.needs_secret() || policy.keys == Keys::kUnused) co_return;
  if (policy.volume != nullptr) co_return image.unlock(*policy.volume);
  if (image.header().crypt_method != qcow2::CryptMethod::kLuks)
    co_return co_await image.unlock(policy.secrets->choose(options.key_secret, label));
  const qcow2::CryptHeaderPlace place = image.header().crypt_header.value();
  std::optional<luks::Luks1Volume> volume =
      co_await unlock_as_before({image.file(), place.offset, place.length_bytes}, options, policy, label);
  if (!volume) volume = co_await image.luks_volume(policy.secrets->choose(options.key_secret, label));
  image.unlock(*volume);
  if (policy.unlocked != nullptr) *policy.unlocked = std::move(*volume);
}

void check_encrypt_format(const qcow2::Image& image, const LayerOptions& options) {
  if (!options.encrypt_format) return;
  const auto method = image.header().crypt_method;
  const std::string_view is = method == qcow2::CryptMethod::kLuks  ? "luks"
                              : method == qcow2::CryptMethod::kAes ? "aes"
                                                                   : "not encrypted";
  if (*options.encrypt_format != is)
    fail(ErrorKind::kInvalidArgument, "'{}': encrypt.format={} was given, but the image's encryption is: {}",
         options.path, *options.encrypt_format, is);
}

io::task<void> attach_data_file(Walk& walk, qcow2::Image& image, LayerOptions& options,
                                const OpenPolicy& policy, size_t index) {
  if (!image.header().external_data()) {
    if (!options.data_file.empty() && !policy.headers_only)
      fail(ErrorKind::kInvalidArgument, "'{}' has no external data file: data-file has no meaning there",
           options.path);
    co_return;
  }
  // Whoever only wants to know what the header says must not touch what it names: it may name anything.
  if (policy.headers_only) co_return;
  const std::optional<std::string>& named = image.header().data_file;
  if (options.data_file.empty() && !named)
    fail(ErrorKind::kInvalidArgument,
         "'{}' keeps its content in a data file but does not name it: give data-file.filename=PATH",
         options.path);
  if (options.data_file.empty()) {
    ImageName name = parse_header_name(resolve_beside(options.path, *named), Format::kRaw);
    walk.references.require_all(name.options, options.path, "data file");
    options.data_file = take_child(name.options, "file", options.path);
  }
  const std::string what = fmt::format("data file of '{}'", options.path);
  Node file;
  try {
    file = co_await open_storage(walk, std::move(options.data_file), policy, what);
    lock_files(file, /*is_raw_top=*/false, policy);
  } catch (const Error& error) {
    throw error.with_context(what);
  }
  walk.chain[index].data_file = file.device.get();
  image.set_data_file(sector_aligned(std::move(file.device)));
}

// The name of what lies below, or nothing.
std::optional<ImageName> backing_name(const Walk& walk, const qcow2::Image& image, LayerOptions& options) {
  const qcow2::Header& header = image.header();
  if (options.backing_given && options.backing.empty()) return std::nullopt;
  if (options.backing.has_prefix("file") || (!options.backing.empty() && !header.backing_file))
    return image_name_of(std::move(options.backing), options.path + ": backing");
  if (!header.backing_file) return std::nullopt;
  const std::string& named = *header.backing_file;
  if (!options.on_host && !named.starts_with('/') && protocol_of(named).empty())
    fail(ErrorKind::kUnsupported,
         "'{}' is no file of this host, and its backing file '{}' counts from its folder: give "
         "backing.file.filename=PATH",
         options.path, named);
  // backing.encrypt.key-secret and the like speak of the file that the header names.
  const std::optional<std::string> driver = options.backing.take("driver");
  const std::optional<std::string>& said = driver ? driver : header.backing_format;
  std::optional<Format> format;
  if (said) format = find_format(*said);
  if (said && !format && !is_driver(*said))
    fail(ErrorKind::kUnsupported, "'{}' has a backing file of format '{}', which is not supported",
         options.path, *said);
  if (said && !format) format = Format::kRaw;  // of a bare file or other storage
  ImageName name = parse_header_name(resolve_beside(options.path, named), format);
  walk.references.require_all(name.options, options.path, "backing file");
  name.options.merge(options.backing);
  return name;
}

// Whether the layer below `overlay_path` is the one that the policy wants to write to.
bool is_writable_backing(const Walk& walk, const ImageName& backing, const std::string& overlay_path) {
  const std::optional<std::string>& wanted = walk.policy.writable_backing;
  if (!wanted) return false;
  if (wanted->empty()) return walk.chain.size() == 1;
  const auto path = backing.options.values().find("file.filename");
  return path != backing.options.values().end() &&
         storage::same_file(path->second, resolve_beside(overlay_path, *wanted));
}

OpenPolicy policy_below(const OpenPolicy& policy) {
  OpenPolicy below = policy;
  below.force_share = policy.force_share || policy.force_share_below;
  below.cache = policy.cache_below.value_or(policy.cache);
  below.for_check = false;
  below.wrap_file = nullptr;
  below.label.clear();
  below.volume = nullptr;
  below.unlocked = nullptr;
  below.snapshot.reset();
  return below;
}

io::task<void> attach_backing(Walk& walk, qcow2::Image& image, LayerOptions options, OpenPolicy policy) {
  if (policy.no_backing) co_return;
  std::unique_ptr<block::Device> backing;
  try {
    std::optional<ImageName> name = backing_name(walk, image, options);
    if (!name) co_return;
    OpenPolicy below = policy_below(policy);
    below.writable = is_writable_backing(walk, *name, options.path);
    Node node = co_await open_layer(walk, std::move(*name), std::move(below));
    backing = std::move(node.device);
  } catch (const Error& error) {
    throw error.with_context(fmt::format("backing file of '{}'", options.path));
  }
  image.set_backing(std::move(backing));
}

io::task<std::unique_ptr<block::Device>> open_qcow2(Walk& walk, std::unique_ptr<block::Device> file,
                                                    LayerOptions options, OpenPolicy policy, size_t index) {
  const Qcow2Settings& settings = options.qcow2;
  const qcow2::OpenOptions how = {
      .read_only = !policy.writable,
      .l2_cache_bytes = settings.l2_cache_bytes,
      .refcount_cache_bytes = settings.refcount_cache_bytes,
      .discard_unmap = settings.pass_discard_request.value_or(options.node.discard_unmap),
      .discard_other = settings.pass_discard_other,
      .discard_snapshot = settings.pass_discard_snapshot,
      .lazy_refcounts = settings.lazy_refcounts,
      .for_check = policy.for_check};
  file = sector_aligned(std::move(file));
  if (policy.wrap_file) file = policy.wrap_file(std::move(file));
  std::unique_ptr<qcow2::Image> image = co_await qcow2::Image::open(std::move(file), how);
  walk.chain[index].qcow2 = image.get();
  walk.chain[index].device = image.get();
  check_qcow2_settings(settings, image->header());
  check_encrypt_format(*image, options);
  const std::string label = policy.label.empty() ? options.path : policy.label;
  co_await unlock(*image, options, policy, label);
  co_await attach_data_file(walk, *image, options, policy, index);
  co_await attach_backing(walk, *image, std::move(options), policy);
  if (policy.snapshot) co_await image->show_snapshot(choose_snapshot(*image, *policy.snapshot));
  co_return image;
}

// What a container consists of; the header is null where it lies before the payload.
struct LuksFiles {
  std::unique_ptr<block::Device> payload;
  std::unique_ptr<block::Device> header;
  block::Device& holding_header() const { return header ? *header : *payload; }
};

// The header's file of its own.
io::task<std::unique_ptr<block::Device>> open_detached_header(Walk& walk, Node& payload,
                                                              LayerOptions& options, const OpenPolicy& policy,
                                                              size_t index) {
  if (options.header.empty()) co_return nullptr;
  const std::string what = fmt::format("LUKS header of '{}'", options.path);
  Node header;
  try {
    header = co_await open_storage(walk, std::move(options.header), policy, what);
    lock_files(header, /*is_raw_top=*/false, policy);
  } catch (const Error& error) {
    throw error.with_context(what);
  }
  payload.description["header"] = std::move(header.description);
  payload.filename.clear();
  walk.chain[index].shown_name = shown_name(payload);
  walk.chain[index].header_file = header.device.get();
  co_return sector_aligned(std::move(header.device));
}

io::task<std::unique_ptr<luks::LuksContainer>> open_container(LuksFiles files, const LayerOptions& options,
                                                              const OpenPolicy& policy) {
  const std::string label = policy.label.empty() ? options.path : policy.label;
  std::optional<luks::Luks1Volume> volume =
      co_await unlock_as_before({files.holding_header(), 0, 0}, options, policy, label);
  if (!volume)
    volume = co_await luks::luks1_unlock(files.holding_header(), 0, 0,
                                         policy.secrets->choose(options.key_secret, label));
  auto container = co_await luks::LuksContainer::open(std::move(files.payload), *volume, !policy.writable,
                                                      std::move(files.header));
  if (policy.unlocked != nullptr) *policy.unlocked = std::move(*volume);
  co_return container;
}

io::task<std::unique_ptr<block::Device>> open_luks(Walk& walk, Node& node, LayerOptions options,
                                                   OpenPolicy policy, size_t index) {
  std::unique_ptr<block::Device> header = co_await open_detached_header(walk, node, options, policy, index);
  LuksFiles files = {sector_aligned(std::move(node.device)), std::move(header)};
  std::unique_ptr<luks::LuksContainer> container;
  if (policy.keys == Keys::kUnused) {
    container = co_await luks::LuksContainer::open_locked(std::move(files.payload), std::move(files.header));
  } else if (policy.volume != nullptr) {
    container = co_await luks::LuksContainer::open(std::move(files.payload), *policy.volume, !policy.writable,
                                                   std::move(files.header));
  } else {
    container = co_await open_container(std::move(files), options, policy);
  }
  walk.chain[index].luks = container.get();
  walk.chain[index].device = container.get();
  co_return container;
}

io::task<std::unique_ptr<block::Device>> open_foreign_layer(Walk& walk, std::unique_ptr<block::Device> file,
                                                            LayerOptions options, OpenPolicy policy,
                                                            size_t index) {
  const ForeignSource source = {.format = walk.chain[index].format,
                                .path = options.path,
                                .has_folder = options.on_host,
                                .extent_files = extent_file_options(policy),
                                .vpc_size = options.vpc_size,
                                .references = walk.references};
  std::unique_ptr<foreign::Image> image = co_await open_foreign(source, std::move(file));
  walk.chain[index].foreign = image.get();
  walk.chain[index].device = image.get();
  co_return image;
}

// Raw: what is in the node is what the guest sees.
void open_raw(Walk& walk, Node& node, Options& options, size_t index) {
  node.device = make_sector_padded(sector_aligned(std::move(node.device)));
  apply_raw_window(node, options);
  walk.chain[index].device = node.device.get();
}

// What of an image's options belongs into its name, in the order in which QEMU shows it.
void describe_layer(Node& node, Format format, const Options& options) {
  nlohmann::ordered_json description = nlohmann::ordered_json::object();
  const auto add = [&](const char* key) {
    const auto found = options.values().find(key);
    if (found == options.values().end()) return;
    description[key] = options.described(key);
    node.filename.clear();
  };
  add("offset");
  add("encrypt.key-secret");
  description["driver"] = format_name(format);
  add("size");
  description["file"] = std::move(node.description);
  add("key-secret");
  node.description = std::move(description);
}

// An image that is a bare file, or other storage: raw, but for its name.
io::task<Node> open_bare_storage(Walk& walk, ImageName name, OpenPolicy policy) {
  Options options = std::move(name.options);
  options.set("driver", name.driver);
  Node node = co_await open_storage(walk, std::move(options), policy, name.text);
  const std::string path = shown_name(node);
  if (policy.snapshot)
    fail(ErrorKind::kUnsupported, "'{}': driver {} has no internal snapshots", path, name.driver);
  refuse_loop(walk, node, path);
  lock_files(node, walk.chain.empty(), policy);
  block::Device* const file = node.device.get();
  node.device = make_sector_padded(sector_aligned(std::move(node.device)));
  walk.chain.push_back({.path = path,
                        .shown_name = path,
                        .driver = name.driver,
                        .format = Format::kRaw,
                        .writable = policy.writable,
                        .tells_nothing = node.tells_nothing,
                        .device = node.device.get(),
                        .file = file,
                        .host_file = node.host_file});
  co_return node;
}

// The image below is opened first; the filter then stands in its place in the chain.
io::task<Node> open_filtered_image(Walk& walk, ImageName name, OpenPolicy policy) {
  const NodeOptions own = take_node_options(name.options, policy, name.text);
  const OpenPolicy child_policy = policy_of_child(policy, own);
  const std::string prefix(find_driver(name.driver)->child);
  Options child = take_child(name.options, prefix, name.text);
  // Only blkverify looks at the content to tell what it stands over.
  if (!child.has("driver") && name.driver != "blkverify") child.set("driver", "file");
  const size_t index = walk.chain.size();
  Node node = co_await open_layer(walk, image_name_of(std::move(child), name.text), child_policy);
  node = co_await open_filter(walk, name.driver, std::move(name.options), std::move(node), child_policy);
  lock_files(node, walk.chain[index].format == Format::kRaw && index == 0, child_policy);
  apply_node_options(node, own);
  Layer& layer = walk.chain[index];
  layer.device = node.device.get();
  layer.driver = name.driver;
  layer.shown_name = shown_name(node);
  co_return node;
}

io::task<void> open_format(Walk& walk, Node& node, Options& own, LayerOptions options, OpenPolicy policy,
                           const ImageName& name, Format format) {
  const size_t index = walk.chain.size() - 1;
  if (format == Format::kQcow2) {
    node.device = co_await open_qcow2(walk, std::move(node.device), std::move(options), policy, index);
    co_return;
  }
  if (policy.snapshot)
    fail(ErrorKind::kUnsupported, "'{}': format {} has no internal snapshots", options.path,
         format_name(format));
  if (format == Format::kLuks) {
    node.device = co_await open_luks(walk, node, std::move(options), policy, index);
  } else if (format != Format::kRaw) {
    node.device =
        co_await open_foreign_layer(walk, std::move(node.device), std::move(options), policy, index);
  } else {
    open_raw(walk, node, own, index);
    own.finish(fmt::format("'{}': format raw", name.text));
  }
}

}  // namespace

io::task<Node> open_layer(Walk& walk, ImageName name, OpenPolicy policy) {
  if (const Driver* const driver = find_driver(name.driver))
    co_return co_await (driver->kind == DriverKind::kFilter
                            ? open_filtered_image(walk, std::move(name), policy)
                            : open_bare_storage(walk, std::move(name), policy));
  LayerOptions options;
  options.node = take_node_options(name.options, policy, name.text);
  policy = policy_of_child(policy, options.node);
  Node node = co_await open_storage(walk, take_child(name.options, "file", name.text), policy, name.text);
  options.path = shown_name(node);
  options.on_host = node.host_file != nullptr;
  refuse_loop(walk, node, options.path);
  if (walk.chain.empty()) walk.references = walk.references.of(options.on_host ? options.path : "");
  const Format format = name.format ? *name.format : co_await probe_format(*node.device);
  describe_layer(node, format, name.options);
  if (format != Format::kRaw) take_of_format(name.options, format, name, options);
  if (policy.writable) require_writable(format, options.path);
  lock_files(node, format == Format::kRaw && walk.chain.empty(), policy);
  walk.chain.push_back({.path = options.path,
                        .shown_name = shown_name(node),
                        .driver = std::string(format_name(format)),
                        .format = format,
                        .probed = !name.format.has_value(),
                        .writable = policy.writable,
                        .tells_nothing = node.tells_nothing,
                        .file = node.device.get(),
                        .host_file = node.host_file,
                        .key_secret = options.key_secret});
  const size_t index = walk.chain.size() - 1;
  const NodeOptions own = options.node;
  co_await open_format(walk, node, name.options, std::move(options), policy, name, format);
  apply_node_options(node, own);
  walk.chain[index].device = node.device.get();
  node.files.clear();  // they are locked
  co_return node;
}

CacheMode parse_cache_mode(std::string_view name) {
  if (name == "none" || name == "off") return {.direct = true};
  if (name == "writeback") return {};
  if (name == "writethrough") return {.write_through = true};
  if (name == "directsync") return {.direct = true, .write_through = true};
  if (name == "unsafe") return {.no_flush = true};
  fail(ErrorKind::kInvalidArgument,
       "there is no cache mode '{}': use none, writeback, writethrough, directsync or unsafe", name);
}

io::task<OpenedImage> open_image(ImageName name, OpenPolicy policy) {
  Secrets nothing;
  if (policy.secrets == nullptr) policy.secrets = &nothing;
  Walk walk{.policy = policy, .files = {}, .chain = {}, .references = name.references};
  OpenedImage opened;
  Node node = co_await open_layer(walk, std::move(name), policy);
  opened.device = std::move(node.device);
  opened.chain = std::move(walk.chain);
  opened.breakpoints = node.breakpoints;
  co_return opened;
}

io::task<void> close_after(OpenedImage& image, io::task<void> work) {
  std::exception_ptr failure;
  try {
    co_await std::move(work);
  } catch (...) {
    failure = std::current_exception();
  }
  try {
    co_await image.close();
  } catch (const Error&) {
    if (!failure) throw;
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace cofre::image
