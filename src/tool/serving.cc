#include "tool/serving.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>

#include "base/error.h"
#include "export/nbd/server.h"
#include "export/status_sources.h"
#include "format/qcow2/bitmap_actions.h"
#include "io/lanes.h"
#include "layer/align.h"
#include "layer/window.h"
#include "tool/daemon.h"
#include "tool/interrupt.h"
#include "tool/probed_raw.h"
#include "tool/temporary_overlay.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr uint32_t kMostClients = 100;
constexpr uint32_t kPreferredBytes = 4096;

// Lines for people, not more than somebody can read: a client must not fill a disk with them.
class Log {
 public:
  explicit Log(std::string program) : program_(std::move(program)) {}

  void operator()(const std::string& line) {
    const std::lock_guard lock(mutex_);
    const auto second =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now().time_since_epoch());
    if (second != second_) {
      second_ = second;
      lines_ = 0;
    }
    if (++lines_ <= kLinesPerSecond) tell(fmt::format("{}: {}\n", program_, line));
  }

 private:
  static constexpr unsigned kLinesPerSecond = 20;
  std::mutex mutex_;
  std::string program_;
  std::chrono::seconds second_{};
  unsigned lines_ = 0;
};

bool is_encrypted(const image::Layer& layer) {
  return layer.luks != nullptr ||
         (layer.qcow2 != nullptr && layer.qcow2->header().crypt_method != qcow2::CryptMethod::kNone);
}

// As QEMU has it: ciphers have sectors, direct I/O may want larger blocks than those, and all else takes any
// request.
uint32_t minimum_block(const ServingPlan& plan, const image::OpenedImage& image) {
  if (plan.temporary_overlay) return 1;  // what it is made of is nobody's concern
  if (is_encrypted(image.top())) return kSectorBytes;
  const uint32_t alignment = image.device->limits().request_alignment;
  return alignment > kSectorBytes ? alignment : 1;
}

io::task<image::OpenedImage> open_served(const ServingPlan& plan, image::ImageName name,
                                         image::Secrets& secrets) {
  image::OpenPolicy policy = plan.policy;
  policy.secrets = &secrets;
  policy.bulk = false;
  if (plan.temporary_overlay) co_return co_await open_temporary_overlay(std::move(name), std::move(policy));
  image::OpenedImage image = co_await image::open_image(std::move(name), std::move(policy));
  warn_of_probed_raw(image);
  co_return image;
}

void apply_offset(image::OpenedImage& image, uint64_t offset) {
  if (offset == 0) return;
  if (offset > image.device->length_bytes())
    fail(ErrorKind::kInvalidArgument, "Offset ({}) cannot be greater than size of the containing file ({})",
         offset, image.device->length_bytes());
  image.device = layer::make_window(layer::make_aligning(std::move(image.device), 1), offset, std::nullopt);
}

// The uppermost image of the chain that has such a bitmap.
qcow2::Image& layer_with_bitmap(const image::OpenedImage& image, const std::string& bitmap) {
  for (const image::Layer& layer : image.chain) {
    if (layer.qcow2 == nullptr) continue;
    for (const qcow2::BitmapEntry& entry : qcow2::bitmaps_of(*layer.qcow2))
      if (entry.name == bitmap) return *layer.qcow2;
  }
  fail(ErrorKind::kNotFound, "Bitmap '{}' is not found", bitmap);
}

io::task<std::shared_ptr<exporting::Export>> make_export(const ServingPlan& plan, const ServedImage& served,
                                                         image::OpenedImage& image, unsigned lane) {
  auto made = std::make_shared<exporting::Export>();
  made->name = served.export_name;
  made->description = served.description;
  made->lane = lane;
  made->minimum_block_bytes = minimum_block(plan, image);
  made->preferred_block_bytes = kPreferredBytes;
  apply_offset(image, plan.offset_bytes);
  image.device = layer::make_aligning(std::move(image.device), 1);
  block::Device& device = *image.device;
  made->device = &device;
  made->read_only = !image.top().writable;
  made->encrypted = std::ranges::any_of(image.chain, is_encrypted);
  made->multi_conn = plan.multi_conn;
  made->statuses.push_back(exporting::make_allocation_status(device));
  if (plan.allocation_depth) made->statuses.push_back(exporting::make_depth_status(device));
  for (const std::string& bitmap : plan.bitmaps)
    made->statuses.push_back(
        co_await exporting::make_bitmap_status(layer_with_bitmap(image, bitmap), bitmap));
  co_return made;
}

class Serving {
 public:
  Serving(const std::string& program, ServingPlan plan, image::Secrets& secrets, io::Lanes& lanes)
      : plan_(std::move(plan)), secrets_(secrets), lanes_(lanes), log_(program) {}

  io::task<void> run(Background& background) {
    std::exception_ptr failure;
    try {
      co_await open_images();
      co_await serve_clients(background);
    } catch (...) {
      failure = std::current_exception();
    }
    for (image::OpenedImage& image : images_) {
      try {
        co_await image.close();
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // Each image lives on a lane of its own, as far as there are lanes.
  io::task<void> open_images() {
    std::exception_ptr failure;
    for (size_t i = 0; i < plan_.images.size() && !failure; ++i) {
      const auto lane = static_cast<unsigned>(i % lanes_.count());
      co_await io::enter(lanes_.lane(lane));
      try {
        images_.push_back(co_await open_served(plan_, plan_.images[i].name, secrets_));
        exported_.push_back(co_await make_export(plan_, plan_.images[i], images_.back(), lane));
        exports_.add(exported_.back());
      } catch (...) {
        failure = std::current_exception();
      }
    }
    co_await io::enter(lanes_.home());
    if (failure) std::rethrow_exception(failure);
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

  nbd::ServerSettings settings(io::Cancel& last_client_gone) {
    nbd::ServerSettings settings;
    settings.most_connections = plan_.most_clients != 0 ? plan_.most_clients : kMostClients;
    settings.tls = plan_.tls;
    if (plan_.verbose) settings.log = [this](const std::string& line) { log_(line); };
    if (plan_.until_last_client)
      settings.on_last_client = [&last_client_gone] { last_client_gone.request(); };
    return settings;
  }

  void announce(const nbd::Server& server) const {
    if (!plan_.announce) return;
    for (const std::string& uri : server.uris()) fmt::print("Listening on {}\n", uri);
    for (const std::string& path : plan_.vhost.paths)
      fmt::print("Listening on {} for vhost-user-blk\n", path);
    for (const std::string& path : plan_.fuse.paths) fmt::print("Mounted on {}\n", path);
    std::fflush(stdout);
  }

  void mount_files(FuseServers& files, bool others_write) {
    for (size_t i = 0; i < plan_.fuse.paths.size(); ++i)
      files.mount(lanes_, plan_.fuse, i, *exported_[i], !others_write,
                  [this](const std::string& line) { log_(line); });
  }

  io::task<void> serve_clients(Background& background) {
    std::vector<nbd::Listener> sockets = listeners();
    std::vector<nbd::Listener> machine_sockets;
    for (const std::string& path : plan_.vhost.paths)
      machine_sockets.push_back(nbd::Listener::on_unix(path, plan_.socket_mode));
    FuseServers files;
    mount_files(files, !sockets.empty() || !machine_sockets.empty());
    std::optional<PidFile> pid_file;
    if (plan_.pid_file) pid_file.emplace(*plan_.pid_file);
    io::Cancel last_client_gone;
    nbd::Server server(lanes_, exports_, settings(last_client_gone));
    for (nbd::Listener& socket : sockets) server.listen(std::move(socket));
    VhostServers machines;
    for (size_t i = 0; i < machine_sockets.size(); ++i)
      machines.add(lanes_, plan_.vhost, i, *exported_[i], std::move(machine_sockets[i]),
                   [this](const std::string& line) { log_(line); });
    // Mounts that are gone do not come back.
    const bool ends_with_mounts = sockets.empty() && machine_sockets.empty();
    files.start([&] {
      if (ends_with_mounts) last_client_gone.request();
    });
    announce(server);
    background.ready();
    const HeedingSignals heeding;
    co_await io::async_readable(interrupt_descriptor(), &last_client_gone);
    co_await files.stop();
    co_await machines.stop();
    co_await server.stop();
  }

  ServingPlan plan_;
  image::Secrets& secrets_;
  io::Lanes& lanes_;
  Log log_;
  std::deque<image::OpenedImage> images_;
  std::vector<std::shared_ptr<const exporting::Export>> exported_;  // of images_
  exporting::ExportTable exports_;
};

}  // namespace

int serve(const std::string& program, ServingPlan plan, image::Secrets& secrets) {
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
