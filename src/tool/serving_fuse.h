// Images mounted as files: the options of `serve`, and the servers they make.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "export/exported.h"
#include "export/fuse/server.h"
#include "tool/command_line.h"

namespace cofre::tool {

struct FusePlan {
  std::vector<std::string> paths;  // to mount on: one for each image, or none at all
  fuse::AllowOther allow_other = fuse::AllowOther::kAutomatic;
};

class FuseOptions {
 public:
  void add_to(CommandLine& line);
  // Throws UsageError.
  FusePlan plan(const CommandLine& line, size_t images) const;

 private:
  std::vector<std::string> paths_;
  std::string allow_other_ = "auto";
};

// All mounts of a process. Home lane.
class FuseServers {
 public:
  // Mounts image number `image`. The lanes outlive it. Throws Error.
  void mount(io::Lanes& lanes, const FusePlan& plan, size_t image, const exporting::Export& exported,
             bool only_writer, std::function<void(const std::string&)> log);
  // Serves, once all are mounted. `on_end` is called when the last one was unmounted from outside.
  void start(std::function<void()> on_end);
  // Once after start(), at the end: completes what was begun. Destroying them unmounts.
  io::task<void> stop();

 private:
  std::deque<fuse::Server> servers_;
  size_t mounted_ = 0;
  std::function<void()> on_end_;
};

}  // namespace cofre::tool
