// The personality qemu-nbd: one image for NBD clients, with the options and ways of qemu-nbd 7.2.
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "base/error.h"
#include "export/nbd/protocol.h"
#include "tool/command_line.h"
#include "tool/daemon.h"
#include "tool/nbd_list.h"
#include "tool/server_tls.h"
#include "tool/serving.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

struct NbdArguments {
  SecretOptions secrets;
  std::optional<std::string> port;
  std::optional<std::string> bind;
  std::optional<std::string> socket;
  std::string shared = "1";
  std::optional<std::string> name;
  std::optional<std::string> description;
  std::optional<std::string> offset;
  std::vector<std::string> bitmaps;
  std::optional<std::string> tls_creds;
  std::optional<std::string> tls_authz;
  std::optional<std::string> trace;
  std::optional<std::string> pid_file;
  std::optional<std::string> selinux_label;
  std::optional<std::string> connect;
  std::optional<std::string> disconnect;
  std::optional<std::string> format;
  std::optional<std::string> snapshot;
  std::vector<std::string> caches;
  std::vector<std::string> engines;
  std::vector<std::string> discards;
  std::optional<std::string> detect_zeroes;
  bool persistent = false;
  bool verbose = false;
  bool version = false;
  bool allocation_depth = false;
  bool list = false;
  bool fork = false;
  bool read_only = false;
  bool overlay = false;
  bool no_cache = false;
  bool image_opts = false;
  std::vector<std::string> files;
};

void declare_connection(CommandLine& line, NbdArguments& into) {
  line.value("-p,--port", into.port, "PORT", "Port to listen on (default 10809)");
  line.value("-b,--bind", into.bind, "IFACE", "Address to listen on (default 0.0.0.0)");
  line.value("-k,--socket", into.socket, "PATH", "Listen on a unix socket instead");
  line.value("-e,--shared", into.shared, "NUM", "So many clients at a time (default 1; 0: no limit)");
  line.flag("-t,--persistent", into.persistent, "Do not exit when the last client is gone");
  line.flag("-v,--verbose", into.verbose, "Tell of connections and requests that failed");
  line.value("-x,--export-name", into.name, "NAME", "Name of the export (default: empty)");
  line.value("-D,--description", into.description, "TEXT", "Description of the export");
  line.flag("-L,--list", into.list, "List the exports of another NBD server");
  line.value("--tls-creds", into.tls_creds, "ID", "Object that has the TLS credentials");
  line.value("--tls-authz", into.tls_authz, "ID", "Object that says which clients are let in");
  line.value("-T,--trace", into.trace, "TRACE", "Taken for compatibility: has no effect");
  line.flag("--fork", into.fork, "Fork off the server and exit once it is running");
  line.value("--pid-file", into.pid_file, "PATH", "File for the server's process id");
  line.value("--selinux-label", into.selinux_label, "LABEL", "Not supported");
  line.value("-c,--connect", into.connect, "DEV",
             "Not supported: the kernel's client is nbd-client's to start");
  line.value("-d,--disconnect", into.disconnect, "DEV", "Not supported, as -c");
}

void declare_image(CommandLine& line, NbdArguments& into) {
  line.value("-o,--offset", into.offset, "OFFSET", "Offset into the image");
  line.flag("-A,--allocation-depth", into.allocation_depth, "Tell clients of the allocation depth");
  line.values("-B,--bitmap", into.bitmaps, "NAME", "Tell clients of a persistent dirty bitmap");
  line.value("-f,--format", into.format, "FORMAT", "Image format (raw, qcow2, ...)");
  line.flag("-r,--read-only", into.read_only, "Export read-only");
  line.flag("-s,--snapshot", into.overlay, "Redirect writes to a temporary file");
  line.value("-l,--load-snapshot", into.snapshot, "SNAPSHOT_PARAM", "Export an internal snapshot, read-only");
  line.flag("-n,--nocache", into.no_cache, "As --cache=none");
  line.values("--cache", into.caches, "MODE",
              "Cache mode: none, writeback (default), writethrough, directsync, unsafe");
  line.values("--aio", into.engines, "MODE", "Taken for compatibility: native, io_uring or threads");
  line.values("--discard", into.discards, "MODE", "What a trim does: unmap, or ignore");
  line.value("--detect-zeroes", into.detect_zeroes, "MODE", "Writes of zeros: off, on, unmap");
  line.flag("--image-opts", into.image_opts, "FILE is a set of image options");
  into.secrets.add_to(line);
  line.flag("-V,--version", into.version, "Show the version and exit");
  line.arguments(into.files, "FILE", "The image");
}

[[noreturn]] void refuse(const std::string& sentence) {
  throw UsageError(sentence);
}

uint64_t parse_unsigned(const std::string& text, const char* what, uint64_t most) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 0);
  const bool negative = text.find('-') != std::string::npos;
  if (errno != 0 || end == text.c_str() || *end != '\0' || negative || value > most)
    refuse(fmt::format("Invalid {} '{}'", what, text));
  return value;
}

void check_once(const NbdArguments& given) {
  if (given.caches.size() + (given.no_cache ? 1 : 0) > 1) refuse("-n and --cache can only be specified once");
  if (given.engines.size() > 1) refuse("--aio can only be specified once");
  if (given.discards.size() > 1) refuse("--discard can only be specified once");
  for (const std::string& engine : given.engines)
    if (engine != "native" && engine != "io_uring" && engine != "threads")
      refuse(fmt::format("Invalid aio mode '{}'", engine));
  for (const std::string& discard : given.discards)
    if (discard != "ignore" && discard != "off" && discard != "unmap" && discard != "on")
      refuse(fmt::format("Invalid discard mode `{}'", discard));
  if (given.detect_zeroes && *given.detect_zeroes != "off" && *given.detect_zeroes != "on" &&
      *given.detect_zeroes != "unmap")
    refuse(
        fmt::format("Failed to parse detect_zeroes mode: invalid parameter value: {}", *given.detect_zeroes));
}

void check_supported(const NbdArguments& given) {
  if (given.connect || given.disconnect)
    refuse(
        "the kernel's NBD client (-c, -d) is not supported: serve on a unix socket (-k PATH) and attach it "
        "with nbd-client -unix PATH DEVICE");
  if (given.selinux_label) refuse("--selinux-label is not supported");
}

void check_address(const NbdArguments& given) {
  if (!given.socket) return;
  if (given.port || given.bind) refuse("-k cannot be used together with -p or -b");
  if (!given.socket->starts_with('/')) refuse("socket path must be absolute");
}

int list(const NbdArguments& given, const image::Secrets& secrets) {
  if (!given.files.empty()) refuse("List mode is incompatible with a file name");
  if (given.name || given.description || given.offset || given.format || given.snapshot ||
      !given.bitmaps.empty() || given.allocation_depth || !given.engines.empty() || !given.discards.empty() ||
      !given.caches.empty() || given.no_cache)
    refuse("List mode is incompatible with per-device settings");
  if (given.fork) refuse("List mode is incompatible with forking");
  std::optional<storage::NbdTls> tls;
  if (given.tls_creds) tls = secrets.objects().tls_credentials(*given.tls_creds);
  print_nbd_list({.unix_path = given.socket.value_or(""),
                  .host = given.bind.value_or("localhost"),
                  .port = given.port.value_or(std::to_string(nbd::kDefaultPort))},
                 tls);
  return 0;
}

image::ImageName image_name(const NbdArguments& given) {
  if (given.image_opts && given.format) refuse("--image-opts and -f are mutually exclusive");
  std::optional<image::Format> format;
  if (given.format) format = image::parse_format(*given.format);
  image::ImageName name = given.image_opts ? image::parse_image_options(given.files[0])
                                           : image::parse_image_name(given.files[0], format);
  if (!given.discards.empty()) name.options.set("discard", given.discards[0]);
  if (given.detect_zeroes) name.options.set("detect-zeroes", *given.detect_zeroes);
  return name;
}

image::CacheMode cache_mode(const NbdArguments& given) {
  const std::string mode = given.no_cache ? "none" : given.caches.empty() ? "writeback" : given.caches[0];
  try {
    return image::parse_cache_mode(mode);
  } catch (const Error&) {
    refuse(fmt::format("Invalid cache mode `{}'", mode));
  }
}

std::string address(const NbdArguments& given) {
  if (given.socket) return "unix:" + *given.socket;
  return fmt::format("tcp:{}:{}", given.bind.value_or("0.0.0.0"),
                     given.port.value_or(std::to_string(nbd::kDefaultPort)));
}

void take_sockets(const NbdArguments& given, ServingPlan& plan) {
  plan.passed_sockets = take_passed_sockets();
  if (plan.passed_sockets == 0) {
    plan.addresses.push_back(address(given));
    return;
  }
  if (plan.passed_sockets > 1)
    refuse(fmt::format("qemu-nbd does not support socket activation with LISTEN_FDS > 1"));
  if (given.socket || given.port || given.bind)
    refuse("An address cannot be set when using socket activation (-k, -p, -b)");
  if (given.fork) refuse("--fork cannot be used with socket activation");
}

void check_length(const char* what, const std::optional<std::string>& text) {
  if (text && text->size() > nbd::kMaxStringBytes)
    refuse(fmt::format("export {} '{}' too long", what, *text));
}

ServingPlan make_plan(const NbdArguments& given) {
  ServingPlan plan;
  plan.most_clients = static_cast<uint32_t>(parse_unsigned(given.shared, "shared device number", INT_MAX));
  if (given.offset) plan.opening.offset_bytes = parse_unsigned(*given.offset, "offset", INT64_MAX);
  check_length("name", given.name);
  check_length("description", given.description);
  plan.images.push_back({.name = image_name(given),
                         .export_name = given.name.value_or(""),
                         .description = given.description.value_or("")});
  plan.opening.policy.writable = !given.read_only && !given.snapshot;
  plan.opening.policy.snapshot = given.snapshot;
  plan.opening.policy.cache = cache_mode(given);
  plan.opening.temporary_overlay = given.overlay;
  plan.opening.allocation_depth = given.allocation_depth;
  plan.images[0].bitmaps = given.bitmaps;
  plan.opening.multi_conn = plan.most_clients != 1;
  plan.until_last_client = !given.persistent;
  plan.fork = given.fork;
  plan.pid_file = given.pid_file;
  plan.verbose = given.verbose;
  return plan;
}

}  // namespace

int run_qemu_nbd(const Session& session, const std::vector<std::string>& arguments) {
  NbdArguments given;
  CommandLine line(session, "", "[OPTIONS] FILE\n  or:  qemu-nbd -L [OPTIONS]",
                   "Offers a disk image to NBD clients, or lists what another server offers.");
  declare_connection(line, given);
  declare_image(line, given);
  line.parse(arguments);
  if (given.version) {
    fmt::print("{} {} (cofre {})\n", session.program, kQemuVersion, kVersion);
    return 0;
  }
  check_once(given);
  check_supported(given);
  check_address(given);
  const std::vector<std::string> server_objects = given.secrets.take_objects(&is_server_object);
  image::Secrets secrets = given.secrets.secrets();
  if (given.list) return list(given, secrets);
  if (given.files.size() != 1) line.fail_usage("Invalid number of arguments");
  ServingPlan plan = make_plan(given);
  take_sockets(given, plan);
  if (given.tls_authz && !given.tls_creds) refuse("--tls-authz is not permitted without --tls-creds");
  if (given.tls_creds) plan.tls = server_tls(server_objects, *given.tls_creds, given.tls_authz, secrets);
  return serve(session.program, std::move(plan), secrets);
}

}  // namespace cofre::tool
