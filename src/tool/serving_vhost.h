// Images offered to virtual machines over vhost-user-blk: the options of `serve`, and the servers they make.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "export/exported.h"
#include "export/vhost_user_blk/server.h"
#include "tool/command_line.h"

namespace cofre::tool {

struct VhostPlan {
  std::vector<std::string> paths;    // of the sockets: one for each image, or none at all
  std::vector<std::string> serials;  // one for each image, or none at all
  uint16_t queues = 0;
  uint16_t queue_size = 0;
  uint64_t poll_ns = 0;
};

class VhostOptions {
 public:
  void add_to(CommandLine& line);
  // Throws UsageError, Error kInvalidArgument.
  VhostPlan plan(const CommandLine& line, size_t images) const;

 private:
  std::vector<std::string> paths_;
  std::vector<std::string> serials_;
  std::string queues_ = "64";
  std::string queue_size_ = "1024";
  std::string poll_us_ = "0";
};

// All servers of a process. Home lane.
class VhostServers {
 public:
  // Lets the front end of image number `image` in. The lanes outlive it.
  void add(io::Lanes& lanes, const VhostPlan& plan, size_t image, const exporting::Export& exported,
           nbd::Listener listener, std::function<void(const std::string&)> log);
  // Once, at the end.
  io::task<void> stop();

 private:
  std::deque<vhost::Server> servers_;
};

}  // namespace cofre::tool
