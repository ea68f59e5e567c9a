#include "tool/io_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "format/qcow2/create.h"
#include "layer/align.h"
#include "layer/copy_on_read.h"
#include "storage/file.h"

namespace cofre::tool {
namespace {

// The options that may get another value while an image is open.
constexpr auto kChangeable = std::to_array<std::string_view>(
    {"read-only", "auto-read-only", "cache.direct", "cache.no-flush", "discard", "detect-zeroes",
     "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "cache-size",
     "l2-cache-size", "refcount-cache-size", "l2-cache-entry-size", "cache-clean-interval"});

bool is_changeable(std::string_view key) {
  return std::ranges::find(kChangeable, key) != kChangeable.end() || key.starts_with("overlap-check");
}

// The whole tree of a name, its driver included.
image::Options tree_of(image::ImageName name) {
  image::Options tree = std::move(name.options);
  if (name.format) tree.set("driver", std::string(image::format_name(*name.format)));
  if (!name.driver.empty()) tree.set("driver", name.driver);
  return tree;
}

// What of `changes` may change. Refuses the rest, unless it says how things are already.
image::Options true_changes(const image::ImageName& name, const image::Options& changes) {
  const image::Options before = tree_of(name);
  image::Options changeable;
  for (const auto& [key, value] : changes.values()) {
    if (is_changeable(key)) {
      changeable.set(key, value);
      continue;
    }
    const auto found = before.values().find(key);
    if (found == before.values().end() || found->second != value)
      fail(ErrorKind::kInvalidArgument, "Cannot change the option '{}'", key.substr(key.rfind('.') + 1));
  }
  return changeable;
}

// An empty qcow2 image in `path`.
io::task<void> make_overlay(const std::string& path, uint64_t size_bytes) {
  const auto file = storage::FileDevice::open(path, {});
  qcow2::CreateOptions options;
  options.size_bytes = size_bytes;
  co_await qcow2::create_image(*file, options, {});
  co_await file->close();
}

}  // namespace

void IoOpenOptions::check() const {
  try {
    image::parse_cache_mode(cache);
  } catch (const Error&) {
    fail(ErrorKind::kInvalidArgument, "Invalid cache option: {}", cache);
  }
  if (discard != "unmap" && discard != "on" && discard != "ignore" && discard != "off")
    fail(ErrorKind::kInvalidArgument, "Invalid discard option: {}", discard);
  if (!aio.empty() && aio != "threads" && aio != "native" && aio != "io_uring")
    fail(ErrorKind::kInvalidArgument, "Invalid aio option: {}", aio);
}

io::task<std::unique_ptr<IoImage>> IoImage::open(image::ImageName name, IoOpenOptions options,
                                                 image::Secrets& secrets) {
  options.check();
  const image::CacheMode cache = image::parse_cache_mode(options.cache);
  if (!name.options.has("discard")) name.options.set("discard", options.discard);
  if (options.aio == "native" && !cache.direct && !name.options.has("cache.direct"))
    fail(ErrorKind::kInvalidArgument,
         "aio=native was specified, but it requires cache.direct=on, which was not specified.");
  if (options.copy_on_read && options.read_only)
    fail(ErrorKind::kInvalidArgument, "Can't use copy-on-read on read-only device");
  // Not bulk: requests overlap.
  image::OpenPolicy policy = {.writable = !options.read_only,
                              .force_share = options.force_share,
                              .cache = cache,
                              .bulk = false,
                              .secrets = &secrets};
  std::unique_ptr<IoImage> image(new IoImage(std::move(name), std::move(options), std::move(policy)));
  if (image->options_.snapshot) co_await image->put_overlay_over_name();
  image->opened_ = co_await image->open_now();
  co_return image;
}

IoImage::~IoImage() {
  if (overlay_fd_ >= 0) ::close(overlay_fd_);
}

io::task<image::OpenedImage> IoImage::open_now() const {
  image::OpenedImage opened = co_await image::open_image(name_, policy_);
  if (options_.copy_on_read && policy_.writable)
    opened.device = layer::make_copy_on_read(std::move(opened.device));
  opened.device = layer::make_aligning(std::move(opened.device), 1);
  co_return opened;
}

// -s: the overlay rests in memory, so what is written to it is on no disk: the image may be encrypted.
io::task<void> IoImage::put_overlay_over_name() {
  image::OpenPolicy to_measure = policy_;
  to_measure.writable = false;
  image::OpenedImage below = co_await image::open_image(name_, std::move(to_measure));
  const uint64_t size_bytes = below.device->length_bytes();
  co_await below.close();
  overlay_fd_ = ::memfd_create("overlay", MFD_CLOEXEC);
  if (overlay_fd_ < 0) fail_errno(errno, "cannot make a file in memory for the overlay");
  const std::string path = fmt::format("/proc/self/fd/{}", overlay_fd_);
  co_await make_overlay(path, size_bytes);
  image::Options tree;
  tree.set("driver", "qcow2");
  tree.set("file.driver", "file");
  tree.set("file.filename", path);
  const image::Options below_tree = tree_of(std::move(name_));
  for (const auto& [key, value] : below_tree.values()) tree.set("backing." + key, value);
  const std::string text = name_.text;
  name_ = image::image_name_of(std::move(tree), text);
}

io::task<void> IoImage::reopen(IoReopenChanges changes) {
  changes.options = true_changes(name_, changes.options);
  image::ImageName name = name_;
  image::OpenPolicy policy = policy_;
  name.options.merge(changes.options);
  if (const auto said = changes.options.take_bool("read-only")) {
    if (*said && policy.writable)
      fail(ErrorKind::kReadOnly, "Read-only block node '{}' cannot support read-write users", name.text);
    policy.writable = !*said;
  }
  if (changes.cache) {
    policy.cache = *changes.cache;
    for (const char* key : {"cache.direct", "cache.no-flush"}) name.options.take(key);
  }
  policy.writable = changes.writable.value_or(policy.writable);
  name.options.take("read-only");  // as the policy has it from now on

  const image::ImageName old_name = std::exchange(name_, std::move(name));
  const image::OpenPolicy old_policy = std::exchange(policy_, std::move(policy));
  image::OpenedImage before = std::move(opened_);
  opened_ = {};
  std::exception_ptr failure;
  try {
    co_await before.close();
    opened_ = co_await open_now();
  } catch (const Error&) {
    failure = std::current_exception();
  }
  if (failure) {
    name_ = old_name;
    policy_ = old_policy;
    try {
      opened_ = co_await open_now();
    } catch (const Error&) {  // the first error is what the user should know
    }
  }
  if (is_open() && before.breakpoints != nullptr && opened_.breakpoints != nullptr)
    opened_.breakpoints->take_over(*before.breakpoints);
  if (failure) std::rethrow_exception(failure);
}

io::task<void> IoImage::close() {
  image::OpenedImage closing = std::move(opened_);
  opened_ = {};
  co_await closing.close();
}

}  // namespace cofre::tool
