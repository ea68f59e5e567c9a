#include "image/objects.h"

#include <array>

#include "base/error.h"

namespace cofre::image {
namespace {

constexpr uint64_t kLargestRate = 1'000'000'000'000'000;

storage::NbdTls take_tls(std::string_view type, Options& properties, const std::string& what) {
  const std::string endpoint = properties.take("endpoint").value_or("client");
  if (endpoint != "client")
    fail(ErrorKind::kInvalidArgument, "{}: endpoint={}: credentials of a client are needed", what, endpoint);
  const std::optional<std::string> folder = properties.take("dir");
  if (!folder || folder->empty()) fail(ErrorKind::kInvalidArgument, "{} needs dir=FOLDER", what);
  if (properties.take("priority"))
    fail(ErrorKind::kUnsupported, "{}: priority is not supported; the system's crypto policy counts", what);
  storage::NbdTls tls;
  tls.verify_peer = properties.take_bool("verify-peer").value_or(true);
  if (type == "tls-creds-psk") {
    tls.psk_file = *folder + "/keys.psk";
    tls.psk_username = properties.take("username").value_or("qemu");
    return tls;
  }
  if (properties.take("passwordid"))
    fail(ErrorKind::kUnsupported, "{}: passwordid is not supported: the private key must not be encrypted",
         what);
  properties.take_bool("sanity-check");
  tls.x509_folder = *folder;
  return tls;
}

// "x-bps-total-max-length" and, of JSON, "limits.bps-total-max-length".
uint64_t take_limit(Options& properties, const std::string& name, uint64_t otherwise) {
  const auto old_name = properties.take_number("x-" + name);
  const auto new_name = properties.take_number("limits." + name);
  const uint64_t value = new_name.value_or(old_name.value_or(otherwise));
  if (value > kLargestRate)
    fail(ErrorKind::kInvalidArgument, "bps/iops/max values must be within [0, {}]: {}={}", kLargestRate, name,
         value);
  return value;
}

layer::ThrottleLimit take_throttle_limit(Options& properties, const std::string& name,
                                         const std::string& what) {
  const layer::ThrottleLimit limit = {.average = take_limit(properties, name, 0),
                                      .burst = take_limit(properties, name + "-max", 0),
                                      .burst_seconds = take_limit(properties, name + "-max-length", 1)};
  if (limit.burst_seconds == 0)
    fail(ErrorKind::kInvalidArgument, "{}: the burst length of {} cannot be 0", what, name);
  if (limit.burst_seconds > 1 && limit.burst == 0)
    fail(ErrorKind::kInvalidArgument, "{}: {}-max-length is set without {}-max", what, name, name);
  if (limit.burst > 0 && limit.average == 0)
    fail(ErrorKind::kInvalidArgument, "{}: {}-max requires {}", what, name, name);
  if (limit.burst > 0 && limit.burst < limit.average)
    fail(ErrorKind::kInvalidArgument, "{}: {}-max cannot be lower than {}", what, name, name);
  return limit;
}

void refuse_mixture(const layer::ThrottleLimit& total, const layer::ThrottleLimit& read,
                    const layer::ThrottleLimit& write, const std::string& what) {
  if (total.average > 0 && (read.average > 0 || write.average > 0))
    fail(ErrorKind::kInvalidArgument,
         "{}: total values and read or write values cannot be used at the same time", what);
}

layer::ThrottleConfig take_throttle(Options& properties, const std::string& what) {
  const layer::ThrottleConfig config = {.bytes_total = take_throttle_limit(properties, "bps-total", what),
                                        .bytes_read = take_throttle_limit(properties, "bps-read", what),
                                        .bytes_write = take_throttle_limit(properties, "bps-write", what),
                                        .requests_total = take_throttle_limit(properties, "iops-total", what),
                                        .requests_read = take_throttle_limit(properties, "iops-read", what),
                                        .requests_write = take_throttle_limit(properties, "iops-write", what),
                                        .request_bytes = take_limit(properties, "iops-size", 0)};
  refuse_mixture(config.bytes_total, config.bytes_read, config.bytes_write, what);
  refuse_mixture(config.requests_total, config.requests_read, config.requests_write, what);
  return config;
}

}  // namespace

bool Objects::knows(std::string_view type) noexcept {
  return type == "tls-creds-x509" || type == "tls-creds-psk" || type == "throttle-group";
}

void Objects::add(std::string_view type, const std::string& id, Options properties) {
  const std::string what = fmt::format("{} '{}'", type, id);
  if (has(id)) fail(ErrorKind::kExists, "there are two objects with the id '{}'", id);
  if (type == "throttle-group") {
    groups_.emplace(id, std::make_shared<layer::ThrottleGroup>(take_throttle(properties, what)));
  } else {
    tls_.emplace(id, take_tls(type, properties, what));
  }
  properties.finish(what);
}

const storage::NbdTls& Objects::tls_credentials(std::string_view id) const {
  const auto found = tls_.find(id);
  if (found == tls_.end())
    fail(ErrorKind::kNotFound,
         "no TLS credentials with id '{}': give them with --object tls-creds-x509,id={},dir=FOLDER or "
         "tls-creds-psk",
         id, id);
  return found->second;
}

std::shared_ptr<layer::ThrottleGroup> Objects::throttle_group(std::string_view id) const {
  const auto found = groups_.find(id);
  if (found == groups_.end())
    fail(ErrorKind::kNotFound,
         "throttle group '{}' does not exist: give it with --object throttle-group,id={}", id, id);
  return found->second;
}

}  // namespace cofre::image
