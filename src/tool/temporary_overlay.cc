#include "tool/temporary_overlay.h"

#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "crypto/random.h"
#include "image/create.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

constexpr const char* kSecretId = "#temporary-overlay";
constexpr size_t kSecretBytes = 64;

// An empty file that is there already, so that nobody else makes it.
class TemporaryFile {
 public:
  TemporaryFile() {
    const char* const folder = std::getenv("TMPDIR");
    path_ = std::string(folder != nullptr && *folder != '\0' ? folder : "/var/tmp") + "/cofre-overlay-XXXXXX";
    const int fd = ::mkstemp(path_.data());
    if (fd < 0) fail_errno(errno, "cannot create a temporary file '{}'", path_);
    ::close(fd);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

void add_random_secret(image::Secrets& secrets) {
  crypto::SecretBytes raw(kSecretBytes);
  crypto::random_bytes(raw.bytes());
  for (std::byte& byte : raw.bytes())
    byte = static_cast<std::byte>('a' + std::to_integer<unsigned>(byte) % 16);
  secrets.add(kSecretId, std::move(raw));
}

io::task<uint64_t> length_of(image::ImageName name, image::OpenPolicy policy) {
  policy.writable = false;
  policy.keys = image::Keys::kUnused;
  image::OpenedImage image = co_await image::open_image(std::move(name), std::move(policy));
  const uint64_t length = image.device->length_bytes();
  co_await image.close();
  co_return length;
}

// The options of an overlay over `base`.
image::ImageName overlay_over(const image::ImageName& base, const std::string& path) {
  image::ImageName overlay = image::image_name_of_file(path, image::Format::kQcow2);
  overlay.options.set("encrypt.key-secret", kSecretId);
  for (const auto& [key, value] : base.options.values()) overlay.options.set("backing." + key, value);
  if (base.format) overlay.options.set("backing.driver", std::string(image::format_name(*base.format)));
  if (!base.driver.empty()) overlay.options.set("backing.driver", base.driver);
  overlay.text = base.text;
  return overlay;
}

}  // namespace

io::task<image::OpenedImage> open_temporary_overlay(image::ImageName name, image::OpenPolicy policy) {
  const TemporaryFile file;
  const RemoveOnSignal remove(file.path());
  add_random_secret(*policy.secrets);
  image::CreateRequest request;
  request.path = file.path();
  request.format = image::Format::kQcow2;
  request.options = image::Options::parse_list(
      fmt::format("encrypt.format=luks,encrypt.key-secret={},encrypt.iter-time=10", kSecretId));
  request.size_bytes = co_await length_of(name, policy);
  image::CreatePlan plan = co_await image::plan_image(std::move(request));
  image::TargetFile target(file.path());
  const image::NewVolume volume = co_await image::create_image(std::move(plan), target, *policy.secrets,
                                                               image::CacheMode{.no_flush = true});
  target.commit(/*durable=*/false);
  policy.writable = true;
  policy.cache.no_flush = true;  // nothing of it is to survive
  policy.volume = volume ? &*volume : nullptr;
  co_return co_await image::open_image(overlay_over(name, file.path()), std::move(policy));
}

}  // namespace cofre::tool
