// Images offered to clients until a signal comes: what `serve` and the personality qemu-nbd share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "export/nbd/tls.h"
#include "image/open.h"
#include "tool/served_images.h"
#include "tool/serving_fuse.h"
#include "tool/serving_vhost.h"

namespace cofre::tool {

struct ServingPlan {
  std::vector<ServedImage> images;
  ImagesPlan opening;

  std::vector<std::string> addresses;  // see nbd::Listener::on()
  unsigned passed_sockets = 0;
  int socket_mode = -1;
  uint32_t most_clients = 0;  // 0: as many as a server takes
  bool until_last_client = false;
  std::shared_ptr<const nbd::TlsCredentials> tls;

  VhostPlan vhost;
  FusePlan fuse;

  std::optional<std::string> control;  // the path of its socket
  std::optional<std::string> metrics;  // ADDRESS:PORT or unix:PATH

  bool fork = false;
  std::optional<std::string> pid_file;
  std::optional<std::string> log;  // a file in place of standard error
  bool verbose = false;
  bool announce = false;  // tell where clients find what
};

// Gives the exit status. Throws Error.
int serve(const std::string& program, ServingPlan plan, image::Secrets& secrets);

}  // namespace cofre::tool
