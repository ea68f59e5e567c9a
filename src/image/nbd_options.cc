#include "image/nbd_options.h"

#include "base/error.h"

namespace cofre::image {
namespace {

// A path or host may be given the old way ("path", "host", "port") or as server.*; not as both.
std::optional<std::string> take_either(Options& options, const std::string& key) {
  std::optional<std::string> old_way = options.take(key);
  std::optional<std::string> new_way = options.take("server." + key);
  if (old_way && new_way)
    fail(ErrorKind::kInvalidArgument, "driver nbd: {} and server.{} exclude each other", key, key);
  return new_way ? new_way : old_way;
}

void take_address(Options& options, storage::NbdOptions& into) {
  const std::optional<std::string> type = options.take("server.type");
  if (type && *type != "unix" && *type != "inet")
    fail(ErrorKind::kUnsupported, "driver nbd: server.type={} is not supported; unix and inet are", *type);
  const std::optional<std::string> path = take_either(options, "path");
  const std::optional<std::string> host = take_either(options, "host");
  const std::optional<std::string> port = take_either(options, "port");
  if (path.has_value() == host.has_value())
    fail(ErrorKind::kInvalidArgument,
         "driver nbd needs one of server.path=PATH (with server.type=unix) and server.host=HOST (with "
         "server.type=inet)");
  if (type && (*type == "unix") != path.has_value())
    fail(ErrorKind::kInvalidArgument, "driver nbd: server.type={} needs server.{}", *type,
         *type == "unix" ? "path" : "host");
  if ((path && path->empty()) || (host && host->empty()) || (path && port))
    fail(ErrorKind::kInvalidArgument, "driver nbd: the address of the server is not one");
  if (path) into.unix_path = *path;
  if (host) into.host = *host;
  if (port) into.port = *port;
}

// libnbd checks a certificate against the host it connects to.
void check_tls_host(const std::optional<std::string>& wanted, const storage::NbdOptions& options) {
  if (wanted && *wanted != options.host)
    fail(ErrorKind::kUnsupported,
         "driver nbd: tls-hostname={} is not supported: the certificate is checked against the host's name "
         "'{}'",
         *wanted, options.host);
}

}  // namespace

storage::NbdOptions take_nbd_options(Options& options, const Objects& objects) {
  storage::NbdOptions nbd;
  take_address(options, nbd);
  nbd.export_name = options.take("export").value_or("");
  if (const auto id = options.take("tls-creds")) nbd.tls = objects.tls_credentials(*id);
  check_tls_host(options.take("tls-hostname"), nbd);
  nbd.reconnect_delay_s = options.take_number("reconnect-delay").value_or(0);
  nbd.open_timeout_s = options.take_number("open-timeout").value_or(0);
  if (nbd.reconnect_delay_s > UINT32_MAX || nbd.open_timeout_s > UINT32_MAX)
    fail(ErrorKind::kInvalidArgument, "driver nbd: reconnect-delay and open-timeout are seconds, below 2^32");
  nbd.status_context = options.take("x-dirty-bitmap").value_or("");
  return nbd;
}

std::string nbd_filename(const storage::NbdOptions& options) {
  if (!options.unix_path.empty())
    return options.export_name.empty()
               ? fmt::format("nbd+unix://?socket={}", options.unix_path)
               : fmt::format("nbd+unix:///{}?socket={}", options.export_name, options.unix_path);
  return options.export_name.empty()
             ? fmt::format("nbd://{}:{}", options.host, options.port)
             : fmt::format("nbd://{}:{}/{}", options.host, options.port, options.export_name);
}

nlohmann::ordered_json nbd_description(const Options& options) {
  nlohmann::ordered_json description = {{"driver", "nbd"}};
  for (const auto& [key, value] : options.values()) description[key] = options.described(key);
  return description;
}

}  // namespace cofre::image
