#include "tool/serving_vhost.h"

#include <fmt/format.h>

namespace cofre::tool {
namespace {

constexpr uint64_t kMostPollUs = 1'000'000;
constexpr uint64_t kNsPerUs = 1000;

}  // namespace

void VhostOptions::add_to(CommandLine& line) {
  line.values("--vhost-user-blk", paths_, "PATH",
              "Listen on a unix socket for the virtual machine whose disk the image is (QEMU, "
              "cloud-hypervisor), once for each image");
  line.value("--num-queues", queues_, "N", "vhost-user-blk: virtqueues that a machine may use (default 64)");
  line.value("--queue-size", queue_size_, "N",
             "vhost-user-blk: descriptors that a virtqueue may have (default 1024)");
  line.value("--poll-us", poll_us_, "N",
             "vhost-user-blk: look for the next request for N microseconds before waiting for it: shorter "
             "latency for time of a CPU (default 0)");
  line.values("--serial", serials_, "S",
              "vhost-user-blk: the disk's serial, at most 20 bytes, once for each image");
}

VhostPlan VhostOptions::plan(const CommandLine& line, size_t images) const {
  if (!paths_.empty() && paths_.size() != images)
    line.fail_usage(
        fmt::format("{} images and {} sockets for vhost-user-blk: give one for each", images, paths_.size()));
  if (!serials_.empty() && serials_.size() != paths_.size())
    line.fail_usage(fmt::format("{} sockets for vhost-user-blk and {} serials: give one for each",
                                paths_.size(), serials_.size()));
  for (const std::string& serial : serials_)
    if (serial.size() > vhost::kSerialBytes)
      line.fail_usage(fmt::format("'{}': a serial has at most {} bytes", serial, vhost::kSerialBytes));
  return {.paths = paths_,
          .serials = serials_,
          .queues = static_cast<uint16_t>(parse_number(queues_, "--num-queues", 1, vhost::kMostQueues)),
          .queue_size =
              static_cast<uint16_t>(parse_number(queue_size_, "--queue-size", 2, vhost::kMostQueueSize)),
          .poll_ns = parse_number(poll_us_, "--poll-us", 0, kMostPollUs) * kNsPerUs};
}

void VhostServers::add(io::Lanes& lanes, const VhostPlan& plan, size_t image,
                       const exporting::Export& exported, nbd::Listener listener,
                       std::function<void(const std::string&)> log) {
  const std::string& path = plan.paths[image];
  vhost::DeviceSettings settings = {.name = path,
                                    .device = exported.device,
                                    .read_only = exported.read_only,
                                    .private_reads = exported.encrypted,
                                    .serial = plan.serials.empty() ? "" : plan.serials[image],
                                    .queues = plan.queues,
                                    .queue_size = plan.queue_size,
                                    .poll_ns = plan.poll_ns,
                                    .first_lane = exported.lane,
                                    .activity = exported.activity.get(),
                                    .log = std::move(log)};
  servers_.emplace_back(lanes, std::move(settings), std::move(listener));
}

io::task<void> VhostServers::stop() {
  for (vhost::Server& server : servers_) co_await server.stop();
}

}  // namespace cofre::tool
