#include "image/open.h"

#include <algorithm>

#include "base/error.h"
#include "image/open_foreign.h"
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
  std::optional<std::string> data_file;
  Options backing;
  bool backing_given = false;
  CacheMode cache;
  bool discard_unmap = true;
  uint64_t l2_cache_bytes = 0;
  uint64_t refcount_cache_bytes = 0;
  foreign::VpcSize vpc_size = foreign::VpcSize::kByCreator;
};

// What stays the same all the way down a chain.
struct Walk {
  OpenPolicy policy;
  std::vector<storage::FileDevice::Identity> files;
  std::vector<Layer> chain;
};

std::string chain_text(const std::vector<Layer>& chain) {
  std::string text;
  for (const Layer& layer : chain) text += fmt::format("'{}' -> ", layer.path);
  return text;
}

std::string take_path(Options& options, const ImageName& name) {
  Options file = options.take_prefix("file");
  const std::string driver = file.take("driver").value_or("file");
  if (driver != "file" && driver != "host_device")
    fail(ErrorKind::kUnsupported,
         "'{}': file.driver '{}' is not supported; files and block devices of this host are", name.text,
         driver);
  for (const char* harmless : {"node-name", "locking", "aio"}) file.take(harmless);
  std::optional<std::string> path = file.take("filename");
  file.finish(fmt::format("'{}': file", name.text));
  if (!path || path->empty())
    fail(ErrorKind::kInvalidArgument, "'{}' names no file: file.filename=PATH", name.text);
  return *path;
}

void take_cache_options(Options& options, LayerOptions& into) {
  into.cache.direct = options.take_bool("cache.direct").value_or(into.cache.direct);
  into.cache.no_flush = options.take_bool("cache.no-flush").value_or(into.cache.no_flush);
}

void take_qcow2_options(Options& options, LayerOptions& into) {
  into.key_secret = options.take("encrypt.key-secret");
  into.encrypt_format = options.take("encrypt.format");
  into.l2_cache_bytes = options.take_size("l2-cache-size").value_or(0);
  into.refcount_cache_bytes = options.take_size("refcount-cache-size").value_or(0);
  if (const auto both = options.take_size("cache-size"); both && into.l2_cache_bytes == 0)
    into.l2_cache_bytes = *both - *both / 5;
  const std::optional<std::string> none = options.take("backing");
  if (none && !none->empty())
    fail(ErrorKind::kUnsupported,
         "backing={}: references to nodes are not supported; use backing.file.filename=PATH", *none);
  into.backing = options.take_prefix("backing");
  into.backing_given = none.has_value() || !into.backing.empty();
  Options data_file = options.take_prefix("data-file");
  data_file.take("driver");
  into.data_file = data_file.take("filename");
  if (!into.data_file) into.data_file = data_file.take("file.filename");
  data_file.finish("data-file");
}

// The options that the format of the image does not bear on come first, so that probing can look at the file.
LayerOptions take_common(Options& options, const ImageName& name, const OpenPolicy& policy) {
  LayerOptions layer;
  layer.cache = policy.cache;
  layer.path = take_path(options, name);
  take_cache_options(options, layer);
  options.take("node-name");
  const std::string discard = options.take("discard").value_or("unmap");
  layer.discard_unmap = discard == "unmap" || discard == "on";
  return layer;
}

void take_of_format(Options& options, Format format, const ImageName& name, LayerOptions& into) {
  if (format == Format::kQcow2) take_qcow2_options(options, into);
  if (format == Format::kLuks) into.key_secret = options.take("key-secret");
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

storage::FileOptions file_options(const LayerOptions& layer, const OpenPolicy& policy) {
  return {.read_only = !policy.writable,
          .direct = layer.cache.direct,
          .no_flush = layer.cache.no_flush,
          .write_through = layer.cache.write_through,
          .blocking = policy.bulk && !layer.cache.direct};
}

// Formats are made of sectors; direct I/O may want larger requests.
std::unique_ptr<block::Device> sector_aligned(std::unique_ptr<block::Device> file) {
  return layer::make_aligning(std::move(file), kSectorBytes);
}

void refuse_loop(const Walk& walk, const storage::FileDevice& file, const std::string& path) {
  const auto identity = file.identity();
  if (std::find(walk.files.begin(), walk.files.end(), identity) != walk.files.end())
    fail(ErrorKind::kInvalidArgument, "the backing chain comes back to itself: {}'{}'",
         chain_text(walk.chain), path);
  if (walk.files.size() >= walk.policy.max_chain)
    fail(ErrorKind::kLimit, "the backing chain of '{}' is longer than {} images", walk.chain.front().path,
         walk.policy.max_chain);
}

io::task<std::unique_ptr<block::Device>> open_layer(Walk& walk, ImageName name, OpenPolicy policy);

// Where a LUKS header lies.
struct LuksPlace {
  block::Device& file;
  uint64_t offset;
  uint64_t area_bytes;
};

// Tries what was typed for an image above in the chain, so that one passphrase of a whole chain is asked for
// once. (With the legacy aes nothing would tell that it is the wrong one.)
io::task<std::optional<luks::Luks1Volume>> unlock_as_above(LuksPlace place, const LayerOptions& options,
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
                      const std::string& label, bool is_top) {
  if (!image.needs_secret() || policy.keys == Keys::kUnused) co_return;
  if (policy.volume != nullptr) co_return image.unlock(*policy.volume);
  if (const auto& place = image.header().crypt_header; place && !is_top) {
    const std::optional<luks::Luks1Volume> volume =
        co_await unlock_as_above({image.file(), place->offset, place->length_bytes}, options, policy, label);
    if (volume) co_return image.unlock(*volume);
  }
  const ConstBytes passphrase = policy.secrets->choose(options.key_secret, label);
  if (policy.unlocked == nullptr || image.header().crypt_method != qcow2::CryptMethod::kLuks)
    co_return co_await image.unlock(passphrase);
  *policy.unlocked = co_await image.luks_volume(passphrase);
  image.unlock(**policy.unlocked);
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

void attach_data_file(qcow2::Image& image, const LayerOptions& options, const OpenPolicy& policy,
                      Layer& layer) {
  if (!image.header().external_data()) return;
  const std::optional<std::string> named = options.data_file ? options.data_file : image.header().data_file;
  if (!named)
    fail(ErrorKind::kInvalidArgument,
         "'{}' keeps its content in a data file but does not name it: give data-file.filename=PATH",
         options.path);
  const std::string path = options.data_file ? *named : resolve_beside(options.path, *named);
  storage::FileOptions how = file_options(options, policy);
  how.locks = locks_for(false, policy);
  std::unique_ptr<storage::FileDevice> file;
  try {
    file = storage::FileDevice::open(path, how);
  } catch (const Error& error) {
    throw error.with_context(fmt::format("data file of '{}'", options.path));
  }
  layer.data_file = file.get();
  image.set_data_file(sector_aligned(std::move(file)));
}

// The name of what lies below, or nothing.
std::optional<ImageName> backing_name(const qcow2::Image& image, LayerOptions& options) {
  const qcow2::Header& header = image.header();
  if (options.backing_given && options.backing.empty()) return std::nullopt;
  std::optional<Format> format;
  if (header.backing_format) format = find_format(*header.backing_format);
  if (options.backing.has_prefix("file"))
    return image_name_of(std::move(options.backing), options.path + ": backing");
  if (!header.backing_file) return std::nullopt;
  if (header.backing_format && !format && *header.backing_format != "file" &&
      *header.backing_format != "host_device")
    fail(ErrorKind::kUnsupported, "'{}' has a backing file of format '{}', which is not supported",
         options.path, *header.backing_format);
  ImageName name = parse_image_name(resolve_beside(options.path, *header.backing_file), format);
  // backing.encrypt.key-secret and the like speak of the file that the header names.
  options.backing.take("driver");
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
    std::optional<ImageName> name = backing_name(image, options);
    if (!name) co_return;
    OpenPolicy below = policy_below(policy);
    below.writable = is_writable_backing(walk, *name, options.path);
    backing = co_await open_layer(walk, std::move(*name), std::move(below));
  } catch (const Error& error) {
    throw error.with_context(fmt::format("backing file of '{}'", options.path));
  }
  image.set_backing(std::move(backing));
}

io::task<std::unique_ptr<block::Device>> open_qcow2(Walk& walk, std::unique_ptr<block::Device> file,
                                                    LayerOptions options, OpenPolicy policy, size_t index) {
  const qcow2::OpenOptions how = {.read_only = !policy.writable,
                                  .l2_cache_bytes = options.l2_cache_bytes,
                                  .refcount_cache_bytes = options.refcount_cache_bytes,
                                  .discard_unmap = options.discard_unmap,
                                  .for_check = policy.for_check};
  std::unique_ptr<qcow2::Image> image = co_await qcow2::Image::open(sector_aligned(std::move(file)), how);
  walk.chain[index].qcow2 = image.get();
  walk.chain[index].device = image.get();
  check_encrypt_format(*image, options);
  const std::string label = policy.label.empty() ? options.path : policy.label;
  co_await unlock(*image, options, policy, label, index == 0);
  attach_data_file(*image, options, policy, walk.chain[index]);
  co_await attach_backing(walk, *image, std::move(options), policy);
  if (policy.snapshot) co_await image->show_snapshot(choose_snapshot(*image, *policy.snapshot));
  co_return image;
}

io::task<std::unique_ptr<luks::LuksContainer>> open_container(std::unique_ptr<block::Device> file,
                                                              const LayerOptions& options,
                                                              const OpenPolicy& policy, bool is_top) {
  const std::string label = policy.label.empty() ? options.path : policy.label;
  if (!is_top) {
    const std::optional<luks::Luks1Volume> volume =
        co_await unlock_as_above({*file, 0, 0}, options, policy, label);
    if (volume) co_return co_await luks::LuksContainer::open(std::move(file), *volume, !policy.writable);
  }
  const ConstBytes passphrase = policy.secrets->choose(options.key_secret, label);
  luks::Luks1Volume volume = co_await luks::luks1_unlock(*file, 0, 0, passphrase);
  auto container = co_await luks::LuksContainer::open(std::move(file), volume, !policy.writable);
  if (policy.unlocked != nullptr) *policy.unlocked = std::move(volume);
  co_return container;
}

io::task<std::unique_ptr<block::Device>> open_luks(Walk& walk, std::unique_ptr<block::Device> file,
                                                   LayerOptions options, OpenPolicy policy, size_t index) {
  std::unique_ptr<luks::LuksContainer> container;
  if (policy.keys == Keys::kUnused) {
    container = co_await luks::LuksContainer::open_locked(sector_aligned(std::move(file)));
  } else if (policy.volume != nullptr) {
    container =
        co_await luks::LuksContainer::open(sector_aligned(std::move(file)), *policy.volume, !policy.writable);
  } else {
    container = co_await open_container(sector_aligned(std::move(file)), options, policy, index == 0);
  }
  walk.chain[index].luks = container.get();
  walk.chain[index].device = container.get();
  co_return container;
}

io::task<std::unique_ptr<block::Device>> open_foreign_layer(Walk& walk,
                                                            std::unique_ptr<storage::FileDevice> file,
                                                            LayerOptions options, OpenPolicy policy,
                                                            size_t index) {
  storage::FileOptions how = file_options(options, policy);
  how.locks = locks_for(false, policy);
  const ForeignSource source = {.format = walk.chain[index].format,
                                .path = options.path,
                                .extent_files = how,
                                .vpc_size = options.vpc_size};
  std::unique_ptr<foreign::Image> image = co_await open_foreign(source, std::move(file));
  walk.chain[index].foreign = image.get();
  walk.chain[index].device = image.get();
  co_return image;
}

io::task<std::unique_ptr<block::Device>> open_layer(Walk& walk, ImageName name, OpenPolicy policy) {
  policy.writable = policy.writable && !name.options.take_bool("read-only").value_or(false);
  policy.force_share = name.options.take_bool("force-share").value_or(policy.force_share);
  if (policy.force_share && policy.writable)
    fail(ErrorKind::kInvalidArgument, "'{}': -U (--force-share) is for reading only", name.text);

  LayerOptions options = take_common(name.options, name, policy);
  std::unique_ptr<storage::FileDevice> file =
      storage::FileDevice::open(options.path, file_options(options, policy));
  refuse_loop(walk, *file, options.path);
  walk.files.push_back(file->identity());
  const Format format = name.format ? *name.format : co_await probe_format(*file);
  take_of_format(name.options, format, name, options);
  if (policy.writable) require_writable(format, options.path);
  const bool is_raw_top = format == Format::kRaw && walk.chain.empty();
  file->set_locks(locks_for(is_raw_top, policy));

  const size_t index = walk.chain.size();
  walk.chain.push_back({.path = options.path,
                        .format = format,
                        .probed = !name.format.has_value(),
                        .writable = policy.writable,
                        .file = file.get(),
                        .key_secret = options.key_secret});
  if (format == Format::kQcow2)
    co_return co_await open_qcow2(walk, std::move(file), std::move(options), policy, index);
  if (policy.snapshot)
    fail(ErrorKind::kUnsupported, "'{}': format {} has no internal snapshots", options.path,
         format_name(format));
  if (format == Format::kLuks)
    co_return co_await open_luks(walk, std::move(file), std::move(options), policy, index);
  if (format != Format::kRaw)
    co_return co_await open_foreign_layer(walk, std::move(file), std::move(options), policy, index);
  std::unique_ptr<block::Device> raw = make_sector_padded(sector_aligned(std::move(file)));
  walk.chain[index].device = raw.get();
  co_return raw;
}

}  // namespace

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
  Walk walk{.policy = policy, .files = {}, .chain = {}};
  OpenedImage opened;
  opened.device = co_await open_layer(walk, std::move(name), policy);
  opened.chain = std::move(walk.chain);
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
