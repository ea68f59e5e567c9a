#include "tool/serving.h"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "export/nbd/server.h"
#include "io/lanes.h"
#include "tool/daemon.h"
#include "tool/interrupt.h"
#include "tool/server_log.h"
#include "tool/serving_control.h"
#include "tool/serving_metrics.h"

namespace cofre::tool {
namespace {

constexpr uint32_t kMostClients = 100;

class Serving {
 public:
  Serving(const std::string& program, ServingPlan plan, image::Secrets& secrets, io::Lanes& lanes)
      : plan_(std::move(plan)),
        secrets_(secrets),
        lanes_(lanes),
        log_(program, plan_.log),
        images_(plan_.opening, secrets, lanes) {}

  io::task<void> run(Background& background) {
    std::exception_ptr failure;
    try {
      co_await open_images();
      co_await serve_clients(background);
    } catch (...) {
      failure = std::current_exception();
    }
    try {
      co_await images_.close_all();
    } catch (...) {
      if (!failure) failure = std::current_exception();
    }
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // From then on there is nobody to ask.
  io::task<void> open_images() {
    for (const ServedImage& image : plan_.images) first_.push_back(co_await images_.add(image));
    secrets_.set_prompt(nullptr);
  }

  std::vector<nbd::Listener> listeners() const {
    std::vector<nbd::Listener> all;
    for (unsigned i = 0; i < plan_.passed_sockets; ++i)
      all.push_back(nbd::Listener::adopt(kFirstPassedSocket + static_cast<int>(i)));
    for (const std::string& address : plan_.addresses)
      for (nbd::Listener& listener : nbd::Listener::on(address, plan_.socket_mode))
        all.push_back(std::move(listener));
    return all;
  }

  nbd::ServerSettings settings(io::Cancel& stop) {
    nbd::ServerSettings settings;
    settings.most_connections = plan_.most_clients != 0 ? plan_.most_clients : kMostClients;
    settings.tls = plan_.tls;
    if (plan_.verbose) settings.log = [this](const std::string& line) { log_(line); };
    if (plan_.until_last_client) settings.on_last_client = [&stop] { stop.request(); };
    return settings;
  }

  void announce(const nbd::Server& server) const {
    if (!plan_.announce) return;
    for (const std::string& uri : server.uris()) fmt::print("Listening on {}\n", uri);
    for (const std::string& path : plan_.vhost.paths)
      if (!path.empty()) fmt::print("Listening on {} for vhost-user-blk\n", path);
    if (plan_.control) fmt::print("Listening on {} for cofre ctl\n", *plan_.control);
    for (const std::string& path : plan_.fuse.paths) fmt::print("Mounted on {}\n", path);
    std::fflush(stdout);
  }

  void add_machines(VhostServers& machines) {
    for (size_t i = 0; i < plan_.vhost.paths.size(); ++i) {
      if (plan_.vhost.paths[i].empty()) continue;
      first_[i]->fixed = true;
      machines.add(lanes_, plan_.vhost, i, *first_[i]->exported,
                   nbd::Listener::on_unix(plan_.vhost.paths[i], plan_.socket_mode),
                   [this](const std::string& line) { log_(line); });
    }
  }

  // `others_write`: over another protocol.
  void mount_files(FuseServers& files, bool others_write) {
    for (size_t i = 0; i < plan_.fuse.paths.size(); ++i) {
      first_[i]->fixed = true;
      files.mount(lanes_, plan_.fuse, i, *first_[i]->exported, !others_write,
                  [this](const std::string& line) { log_(line); });
    }
  }

  io::task<void> serve_clients(Background& background) {
    std::vector<nbd::Listener> sockets = listeners();
    const bool has_machines =
        std::ranges::any_of(plan_.vhost.paths, [](const std::string& path) { return !path.empty(); });
    const bool has_others = !sockets.empty() || has_machines;
    std::optional<PidFile> pid_file;
    if (plan_.pid_file) pid_file.emplace(*plan_.pid_file);
    io::Cancel stop;
    nbd::Server server(lanes_, images_.exports(), settings(stop));
    VhostServers machines;
    FuseServers files;
    std::optional<ServingMetrics> metrics;
    std::optional<ServingControl> control;
    std::exception_ptr failure;
    const HeedingSignals heeding;  // from before anybody can know of us: mounts are not left behind
    try {
      add_machines(machines);
      mount_files(files, has_others);
      if (plan_.metrics) metrics.emplace(*plan_.metrics, plan_.socket_mode, images_.exports(), server);
      if (plan_.control) control.emplace(*plan_.control, ServerParts{images_, server, lanes_, log_, stop});
      for (nbd::Listener& socket : sockets) server.listen(std::move(socket));
      // Mounts that are gone do not come back.
      const bool ends_with_mounts = !has_others && !plan_.control;
      files.start([ends_with_mounts, &stop] {
        if (ends_with_mounts) stop.request();
      });
      announce(server);
      background.ready();
      notify_service_manager(fmt::format("READY=1\nSTATUS={} exports", first_.size()));
      co_await io::async_readable(interrupt_descriptor(), &stop);
    } catch (...) {
      failure = std::current_exception();
    }
    notify_service_manager("STOPPING=1");
    co_await files.stop();
    if (control) co_await control->stop();
    if (metrics) co_await metrics->stop();
    co_await machines.stop();
    co_await server.stop();
    if (failure) std::rethrow_exception(failure);
  }

  ServingPlan plan_;
  image::Secrets& secrets_;
  io::Lanes& lanes_;
  ServerLog log_;
  ServedImages images_;
  std::vector<Served*> first_;  // those of the plan; the ones with a machine or a mount stay
};

}  // namespace

int serve(const std::string& program, ServingPlan plan, image::Secrets& secrets) {
  // Nothing is started from here that could want any, but fusermount3, to unmount.
  if (plan.fuse.paths.empty()) ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  Background background;
  if (plan.fork) {
    if (const std::optional<int> status = Background::enter(background)) return *status;
  }
  io::Lanes lanes;
  Serving serving(program, std::move(plan), secrets, lanes);
  lanes.run(serving.run(background));
  return 0;
}

}  // namespace cofre::tool
