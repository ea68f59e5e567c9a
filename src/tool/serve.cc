// cofre serve: offers images to clients over NBD, and to virtual machines over vhost-user-blk.
#include <fmt/format.h>

#include "base/error.h"
#include "export/nbd/protocol.h"
#include "tool/command_line.h"
#include "tool/daemon.h"
#include "tool/server_tls.h"
#include "tool/serving.h"

namespace cofre::tool {
namespace {

struct ServeArguments {
  SourceOptions source;
  SecretOptions secrets;
  VhostOptions vhost;
  std::vector<std::string> addresses;
  std::vector<std::string> export_names;
  std::vector<std::string> descriptions;
  std::vector<std::string> bitmaps;
  std::string cache = "writeback";
  std::string engine;
  std::string discard = "unmap";
  std::string detect_zeroes = "off";
  std::string shared = "0";
  std::optional<std::string> snapshot;
  std::optional<std::string> socket_mode;
  std::optional<std::string> pid_file;
  std::optional<std::string> tls_creds;
  std::optional<std::string> tls_authz;
  bool read_only = false;
  bool persistent = false;
  bool once = false;
  bool fork = false;
  bool verbose = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, ServeArguments& into) {
  line.values("--nbd", into.addresses, "ADDRESS",
              "Listen for NBD clients on unix:PATH or tcp:ADDRESS:PORT (tcp:PORT: on all addresses). May be "
              "given several times. Sockets that a service manager passes are used too");
  into.vhost.add_to(line);
  line.values("-x,--export-name", into.export_names, "NAME",
              "The name of the export, once for each image. By default it is empty for a single image, and "
              "the image's name for several");
  line.values("-D,--description", into.descriptions, "TEXT", "A description, once for each image");
  into.source.usual_trust = image::References::Trust::kBeside;
  into.source.add_to(line);
  line.flag("-r,--read-only", into.read_only, "Clients can read only");
  line.value("-l,--load-snapshot,--snapshot", into.snapshot, "SNAPSHOT",
             "Offer the image as it was when an internal snapshot was taken, read-only: an ID, a name, or "
             "snapshot.id=ID,snapshot.name=NAME");
  line.values("-B,--bitmap", into.bitmaps, "NAME",
              "Tell clients of a persistent dirty bitmap (qemu:dirty-bitmap:NAME)");
  line.value("-e,--shared", into.shared, "N",
             "At most N clients at a time (up to 10000); others wait. 0 (default): 100");
  line.flag("-t,--persistent", into.persistent, "Go on when the last client is gone (the default)");
  line.flag("--once", into.once, "End when the last client is gone");
  line.value("--cache", into.cache, "MODE",
             "Cache mode: none, writeback (default), writethrough, directsync, unsafe");
  line.value("--aio", into.engine, "MODE", "Taken for compatibility: has no effect");
  line.value("--discard", into.discard, "MODE", "What a trim does: unmap (default), or ignore");
  line.value("--detect-zeroes", into.detect_zeroes, "MODE",
             "Writes of zeros become zeroed space: off (default), on, or unmap");
  line.value("--socket-mode", into.socket_mode, "MODE", "Access rights of unix sockets, in octal: 0660");
  line.value(
      "--tls-creds", into.tls_creds, "ID",
      "Clients need TLS; the credentials are an --object tls-creds-x509,id=ID,endpoint=server,dir=FOLDER "
      "or tls-creds-psk,id=ID,endpoint=server,dir=FOLDER");
  line.value("--tls-authz", into.tls_authz, "ID",
             "Only one client's certificate is let in: --object authz-simple,id=ID,identity=NAME");
  line.flag("--fork", into.fork, "Go to the background once clients can connect");
  line.value("--pid-file", into.pid_file, "PATH", "A file for the process id, removed at the end");
  line.flag("-v,--verbose", into.verbose, "Tell of connections and requests that failed");
  into.secrets.add_to(line);
  line.arguments(into.names, "IMAGE", "The images");
}

int parse_mode(const CommandLine& line, const std::optional<std::string>& text) {
  if (!text) return -1;
  int mode = 0;
  for (const char digit : *text) {
    if (digit < '0' || digit > '7' || mode > 0777) line.fail_usage("--socket-mode takes octal digits: 0660");
    mode = mode * 8 + (digit - '0');
  }
  if (text->empty() || mode > 0777) line.fail_usage("--socket-mode takes octal digits: 0660");
  return mode;
}

// The name's options where they are given for all images on the command line.
void set_default(image::ImageName& name, const std::string& key, const std::string& value) {
  if (!name.options.has(key)) name.options.set(key, value);
}

std::vector<ServedImage> served_images(const CommandLine& line, const ServeArguments& given) {
  const size_t count = given.names.size();
  if (!given.export_names.empty() && given.export_names.size() != count)
    line.fail_usage(
        fmt::format("{} images and {} export names: give one for each", count, given.export_names.size()));
  if (!given.descriptions.empty() && given.descriptions.size() != count)
    line.fail_usage(
        fmt::format("{} images and {} descriptions: give one for each", count, given.descriptions.size()));
  std::vector<ServedImage> images;
  for (size_t i = 0; i < count; ++i) {
    ServedImage image = {.name = given.source.name(given.names[i]),
                         .export_name = count == 1 ? "" : given.names[i],
                         .description = {}};
    if (!given.export_names.empty()) image.export_name = given.export_names[i];
    if (!given.descriptions.empty()) image.description = given.descriptions[i];
    set_default(image.name, "discard", given.discard);
    if (given.detect_zeroes != "off") set_default(image.name, "detect-zeroes", given.detect_zeroes);
    for (const std::string* text : {&image.export_name, &image.description})
      if (text->size() > nbd::kMaxStringBytes)
        line.fail_usage(fmt::format("a name or description has at most {} bytes", nbd::kMaxStringBytes));
    images.push_back(std::move(image));
  }
  return images;
}

ServingPlan make_plan(const CommandLine& line, const ServeArguments& given) {
  ServingPlan plan;
  plan.images = served_images(line, given);
  plan.policy.writable = !given.read_only && !given.snapshot && !given.source.force_share;
  plan.policy.force_share = given.source.force_share;
  plan.policy.snapshot = given.snapshot;
  plan.policy.cache = image::parse_cache_mode(given.cache);
  plan.allocation_depth = true;
  plan.bitmaps = given.bitmaps;
  plan.addresses = given.addresses;
  plan.vhost = given.vhost.plan(line, plan.images.size());
  plan.passed_sockets = take_passed_sockets();
  plan.socket_mode = parse_mode(line, given.socket_mode);
  plan.most_clients = static_cast<uint32_t>(parse_number(given.shared, "--shared", 0, 10'000));
  plan.multi_conn = plan.most_clients != 1;
  plan.until_last_client = given.once;
  plan.fork = given.fork;
  plan.pid_file = given.pid_file;
  plan.verbose = given.verbose;
  plan.announce = true;
  return plan;
}

}  // namespace

int run_serve(const Session& session, const std::vector<std::string>& arguments) {
  ServeArguments given;
  CommandLine line(
      session, "serve", "--nbd ADDRESS | --vhost-user-blk PATH [-f FMT] [-x NAME] [-r] IMAGE...",
      "Offers disk images, decrypted, to NBD clients (QEMU, nbd-client, libnbd), and to virtual machines as "
      "their disks (vhost-user-blk), until SIGTERM or SIGINT: then requests are finished and the images "
      "closed. A second signal ends at once.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.empty()) line.fail_usage("expecting one or more image file names");
  if (given.once && given.persistent) line.fail_usage("--once and --persistent exclude each other");
  ServingPlan plan = make_plan(line, given);
  if (plan.addresses.empty() && plan.passed_sockets == 0 && plan.vhost.paths.empty())
    line.fail_usage("expecting --nbd unix:PATH, --nbd tcp:ADDRESS:PORT, or --vhost-user-blk PATH");
  if (given.once && !plan.vhost.paths.empty())
    line.fail_usage("--once and --vhost-user-blk exclude each other: machines come back");
  if (plan.fork && plan.passed_sockets > 0)
    line.fail_usage("--fork and sockets passed by a service manager exclude each other");
  const std::vector<std::string> server_objects = given.secrets.take_objects(&is_server_object);
  image::Secrets secrets = given.secrets.secrets();
  if (given.tls_creds) plan.tls = server_tls(server_objects, *given.tls_creds, given.tls_authz, secrets);
  if (given.tls_authz && !given.tls_creds) line.fail_usage("--tls-authz needs --tls-creds");
  return serve(session.program, std::move(plan), secrets);
}

}  // namespace cofre::tool
