#include "tool/serving_fuse.h"

#include <fmt/format.h>

#include <utility>

namespace cofre::tool {

void FuseOptions::add_to(CommandLine& line) {
  line.values("--fuse", paths_, "PATH",
              "Mount the image, as a regular file that holds the disk, on a file, which is made if it is not "
              "there; once for each image. Ends when it is unmounted");
  line.value("--fuse-allow-other", allow_other_, "MODE",
             "fuse: whether other users may open the file, as far as its mode lets them: off, on, or auto "
             "(default: where the system permits it)");
}

FusePlan FuseOptions::plan(const CommandLine& line, size_t images) const {
  if (!paths_.empty() && paths_.size() != images)
    line.fail_usage(
        fmt::format("{} images and {} paths to mount them on: give one for each", images, paths_.size()));
  FusePlan plan = {.paths = paths_};
  if (allow_other_ == "off") {
    plan.allow_other = fuse::AllowOther::kOff;
  } else if (allow_other_ == "on") {
    plan.allow_other = fuse::AllowOther::kOn;
  } else if (allow_other_ != "auto") {
    line.fail_usage("--fuse-allow-other takes off, on, or auto");
  }
  return plan;
}

void FuseServers::mount(io::Lanes& lanes, const FusePlan& plan, size_t image,
                        const exporting::Export& exported, bool only_writer,
                        std::function<void(const std::string&)> log) {
  const std::string& path = plan.paths[image];
  fuse::FileSettings settings = {
      .name = path,
      .device = exported.device,
      .block_bytes = exported.preferred_block_bytes,
      .read_only = exported.read_only,
      .only_writer = only_writer,
      .activity = exported.activity ? &exported.activity->lane(exported.lane) : nullptr,
      .log = std::move(log)};
  servers_.emplace_back(lanes, exported.lane, path, plan.allow_other, std::move(settings));
}

void FuseServers::start(std::function<void()> on_end) {
  on_end_ = std::move(on_end);
  mounted_ = servers_.size();
  for (fuse::Server& server : servers_)
    server.start([this] {
      if (--mounted_ == 0) on_end_();
    });
}

io::task<void> FuseServers::stop() {
  for (fuse::Server& server : servers_) co_await server.stop();
}

}  // namespace cofre::tool
