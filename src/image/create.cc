#include "image/create.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/error.h"
#include "image/graph.h"
#include "image/resize.h"
#include "layer/align.h"

namespace cofre::image {
namespace {

// A new image is a file or a device of this host, or fills an NBD export.
struct Place {
  std::string path;
  bool elsewhere = false;
};
Place place_of(const std::string& text) {
  Options options = parse_image_name(text).options;
  const std::string driver = options.take("file.driver").value_or("file");
  if (driver == "nbd") return {text, true};
  const auto path = options.values().find("file.filename");
  if ((driver != "file" && driver != "host_device") || path == options.values().end() ||
      options.values().size() != 1)
    fail(ErrorKind::kInvalidArgument, "'{}': the name of a new image is a path, or an NBD export's", text);
  return {path->second, false};
}

void merge_backing(CreateRequest& request) {
  if (request.backing_file) request.options.set("backing_file", *request.backing_file);
  if (request.backing_format) request.options.set("backing_fmt", *request.backing_format);
  if (request.format == Format::kQcow2) return;
  for (const char* key : {"backing_file", "backing_fmt"}) {
    if (request.options.has(key))
      fail(ErrorKind::kInvalidArgument, "'{}': backing file not supported for file format '{}'", request.path,
           format_name(request.format));
  }
}

void check_backing(const CreateRequest& request, const qcow2::CreateOptions& qcow2) {
  if (qcow2.backing_format && !qcow2.backing_file)
    fail(ErrorKind::kInvalidArgument, "'{}': backing format cannot be used without backing file",
         request.path);
  if (!qcow2.backing_file) return;
  if (!qcow2.backing_format)
    fail(ErrorKind::kInvalidArgument,
         "'{}': backing file specified without backing format: add -F raw, -F qcow2 or -F luks",
         request.path);
  parse_format(*qcow2.backing_format);
  const std::string beside = resolve_beside(request.path, *qcow2.backing_file);
  if (beside == request.path || storage::same_file(beside, request.path))
    fail(ErrorKind::kInvalidArgument, "'{}' cannot be its own backing file", request.path);
}

// A new data file takes the place of what has its name.
void check_data_file(const CreateRequest& request, const qcow2::CreateOptions& qcow2) {
  if (!qcow2.data_file) return;
  const std::string path = resolve_beside(request.path, *qcow2.data_file);
  if (path == request.path || storage::same_file(path, request.path))
    fail(ErrorKind::kInvalidArgument, "'{}' cannot be its own data file", request.path);
  if (!qcow2.backing_file) return;
  const std::string backing = resolve_beside(request.path, *qcow2.backing_file);
  if (path == backing || storage::same_file(path, backing))
    fail(ErrorKind::kInvalidArgument, "'{}': the data file '{}' is the backing file: choose another name",
         request.path, path);
}

bool is_beside(const block::Device* file, const std::string& path) {
  return file != nullptr && storage::same_file(file->name(), path);
}

// The chain is read, so none of its files may become the new image's data file.
void refuse_data_file_of(const OpenedImage& backing, const std::string& path) {
  for (const Layer& layer : backing.chain) {
    if (!storage::same_file(layer.path, path) && !is_beside(layer.data_file, path) &&
        !is_beside(layer.header_file, path))
      continue;
    fail(ErrorKind::kInvalidArgument, "the data file '{}' belongs to the backing chain: choose another name",
         path);
  }
}

io::task<uint64_t> backing_bytes(std::string path, qcow2::CreateOptions qcow2) {
  try {
    const ImageName name =
        parse_image_name(resolve_beside(path, *qcow2.backing_file), parse_format(*qcow2.backing_format));
    OpenedImage backing = co_await open_image(name, {.no_backing = !qcow2.data_file, .keys = Keys::kUnused});
    if (qcow2.data_file) refuse_data_file_of(backing, resolve_beside(path, *qcow2.data_file));
    const uint64_t bytes = backing.device->length_bytes();
    co_await backing.close();
    co_return bytes;
  } catch (const Error& error) {
    throw error.with_context(fmt::format("'{}': could not open backing image", path));
  }
}

std::optional<uint64_t> asked_size(const CreateRequest& request, const CreateSettings& settings) {
  if (request.size_bytes && settings.size_bytes)
    fail(ErrorKind::kInvalidArgument, "'{}': the image size must be specified only once", request.path);
  return request.size_bytes ? request.size_bytes : settings.size_bytes;
}

// Names in an image's header count from its folder.
void check_folder(const CreatePlan& plan) {
  for (const auto& name : {plan.settings.qcow2.backing_file, plan.settings.qcow2.data_file}) {
    if (plan.elsewhere && name && !name->starts_with('/') && resolve_beside("/", *name).starts_with('/'))
      fail(
          ErrorKind::kInvalidArgument,
          "'{}' is no file of this host, so that '{}' has no folder to count from: give a path from the root",
          plan.path, *name);
  }
}

std::unique_ptr<storage::FileDevice> make_file(const CreatePlan& plan, const TargetFile& target,
                                               CacheMode cache) {
  const storage::FileOptions options = {.direct = cache.direct,
                                        .no_flush = cache.no_flush,
                                        .write_through = cache.write_through,
                                        .locks = storage::FileLocks::format(false),
                                        .hints = plan.settings.hints};
  if (target.in_place()) return storage::FileDevice::open(target.working_path(), options);
  return storage::FileDevice::create(target.working_path(), options);
}

io::task<void> create_raw(const CreatePlan& plan, std::unique_ptr<storage::FileDevice> file) {
  co_await resize_file(*file, plan.size_bytes, plan.settings.preallocation);
  co_await file->close();
}

void refuse_preallocation_elsewhere(const CreatePlan& plan) {
  if (plan.settings.preallocation == qcow2::Preallocation::kOff) return;
  fail(ErrorKind::kUnsupported, "'{}': Unsupported preallocation mode: space can be reserved in files only",
       plan.path);
}

// As large as it is; what the image has no use for stays as it was.
io::task<void> create_raw_elsewhere(const CreatePlan& plan, std::unique_ptr<block::Device> storage) {
  refuse_preallocation_elsewhere(plan);
  if (storage->length_bytes() < plan.size_bytes)
    fail(ErrorKind::kNoSpace, "'{}' has {} bytes, and the image needs {}: an export cannot grow from here",
         plan.path, storage->length_bytes(), plan.size_bytes);
  co_await storage->close();
}

// `host_file`: the file, where it is one of this host; its space can be reserved.
io::task<NewVolume> create_luks(const CreatePlan& plan, std::unique_ptr<block::Device> file, Secrets& secrets,
                                storage::FileDevice* host_file) {
  if (host_file == nullptr) refuse_preallocation_elsewhere(plan);
  const ConstBytes passphrase = secrets.choose(plan.settings.key_secret, plan.path, true);
  const std::unique_ptr<block::Device> storage = layer::make_aligning(std::move(file), kSectorBytes);
  luks::Luks1Volume volume =
      co_await luks::LuksContainer::format(*storage, plan.settings.luks, passphrase, plan.size_bytes);
  if (host_file != nullptr && !plan.settings.luks.detached)
    co_await preallocate_file(*host_file, volume.header.payload_offset_bytes(), host_file->length_bytes(),
                              plan.settings.preallocation);
  co_await storage->close();
  co_return volume;
}

// The file for the content, under its own name beside the image.
io::task<void> create_data_file(const CreatePlan& plan, TargetFile& target, const std::string& name,
                                CacheMode cache) {
  const storage::FileOptions options = {
      .no_flush = cache.no_flush, .locks = storage::FileLocks::format(false), .hints = plan.settings.hints};
  const std::string path = resolve_beside(plan.path, name);
  const bool is_new = access(path.c_str(), F_OK) != 0;
  auto file = storage::FileDevice::create(path, options, true);
  if (is_new) target.made_beside(path);
  co_await resize_file(*file, plan.size_bytes, qcow2::Preallocation::kOff);
  co_await file->close();
}

io::task<void> preallocate_qcow2(const CreatePlan& plan, const TargetFile& target, Secrets& secrets,
                                 CacheMode cache, const NewVolume& volume) {
  OpenedImage image =
      co_await open_image(name_of_new_image(plan, target), {.writable = true,
                                                            .no_backing = true,
                                                            .cache = cache,
                                                            .secrets = &secrets,
                                                            .label = plan.path,
                                                            .volume = volume ? &*volume : nullptr});
  // A data file that is to be read as a raw image holds every cluster in its place from the start.
  const bool whole = plan.settings.preallocation == qcow2::Preallocation::kOff;
  co_await image.top().qcow2->preallocate(whole ? qcow2::Preallocation::kMetadata
                                                : plan.settings.preallocation);
  co_await image.close();
}

io::task<NewVolume> create_qcow2(const CreatePlan& plan, TargetFile& target, Secrets& secrets,
                                 CacheMode cache, std::unique_ptr<block::Device> file) {
  ConstBytes passphrase;
  if (plan.encrypted()) passphrase = secrets.choose(plan.settings.key_secret, plan.path, true);
  qcow2::CreateOptions options = plan.settings.qcow2;
  options.size_bytes = plan.size_bytes;
  std::unique_ptr<block::Device> storage = layer::make_aligning(std::move(file), kSectorBytes);
  NewVolume volume = co_await qcow2::create_image(*storage, options, passphrase);
  co_await storage->close();
  storage.reset();  // an NBD server may take one client at a time
  if (options.data_file) co_await create_data_file(plan, target, *options.data_file, cache);
  if (options.preallocation != qcow2::Preallocation::kOff || options.data_file_raw)
    co_await preallocate_qcow2(plan, target, secrets, cache, volume);
  co_return volume;
}

io::task<NewVolume> create_elsewhere(const CreatePlan& plan, TargetFile& target, Secrets& secrets,
                                     CacheMode cache) {
  const OpenPolicy policy = {.writable = true, .cache = cache, .secrets = &secrets};
  Walk walk{.policy = policy, .files = {}, .chain = {}, .references = {}};
  Options options = parse_image_name(plan.path).options.take_prefix("file");
  Node node = co_await open_storage(walk, std::move(options), policy, plan.path);
  if (plan.format == Format::kLuks)
    co_return co_await create_luks(plan, std::move(node.device), secrets, nullptr);
  if (plan.format == Format::kQcow2)
    co_return co_await create_qcow2(plan, target, secrets, cache, std::move(node.device));
  co_await create_raw_elsewhere(plan, std::move(node.device));
  co_return std::nullopt;
}

}  // namespace

io::task<CreatePlan> plan_image(CreateRequest request) {
  require_writable_format(request.format);
  const Place place = place_of(request.path);
  request.path = place.path;
  merge_backing(request);
  CreatePlan plan{.path = request.path, .format = request.format, .elsewhere = place.elsewhere};
  plan.settings = parse_create_options(request.format, request.options);
  const qcow2::CreateOptions& qcow2 = plan.settings.qcow2;
  check_folder(plan);
  check_backing(request, qcow2);
  check_data_file(request, qcow2);
  std::optional<uint64_t> size = asked_size(request, plan.settings);
  if (qcow2.backing_file && !request.unchecked_backing) {
    const uint64_t bytes = co_await backing_bytes(request.path, qcow2);
    if (!size) size = bytes;
  }
  // A header has the size that it has, whatever is said.
  if (request.format == Format::kLuks && plan.settings.luks.detached) size = 0;
  if (!size)
    fail(ErrorKind::kInvalidArgument, "'{}': image creation needs a size: {} 10G, or a backing file",
         request.path, request.path);
  plan.summary = options_summary(request.format, request.options, *size);
  plan.size_bytes = align_up<uint64_t>(*size, kSectorBytes);
  if (request.format == Format::kQcow2) {
    qcow2::CreateOptions whole = qcow2;
    whole.size_bytes = plan.size_bytes;
    qcow2::validate(whole);
  }
  if (request.format == Format::kLuks) luks::validate(plan.settings.luks);
  co_return plan;
}

io::task<NewVolume> create_image(CreatePlan plan, TargetFile& target, Secrets& secrets, CacheMode cache) {
  try {
    if (plan.elsewhere) co_return co_await create_elsewhere(plan, target, secrets, cache);
    std::unique_ptr<storage::FileDevice> file = make_file(plan, target, cache);
    storage::FileDevice* const host_file = file.get();
    if (plan.format == Format::kLuks)
      co_return co_await create_luks(plan, std::move(file), secrets, host_file);
    if (plan.format == Format::kQcow2)
      co_return co_await create_qcow2(plan, target, secrets, cache, std::move(file));
    co_await create_raw(plan, std::move(file));
    co_return std::nullopt;
  } catch (const Error& error) {
    throw target.renamed(error);
  }
}

ImageName name_of_new_image(const CreatePlan& plan, const TargetFile& target) {
  ImageName name = plan.elsewhere ? parse_image_name(plan.path, plan.format)
                                  : image_name_of_file(target.working_path(), plan.format);
  if (plan.settings.key_secret)
    name.options.set(plan.format == Format::kLuks ? "key-secret" : "encrypt.key-secret",
                     *plan.settings.key_secret);
  return name;
}

}  // namespace cofre::image
