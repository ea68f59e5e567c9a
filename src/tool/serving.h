// Images offered to clients until a signal comes: what `serve` and the personality qemu-nbd share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "export/nbd/tls.h"
#include "image/open.h"
#include "tool/serving_fuse.h"
#include "tool/serving_vhost.h"

namespace cofre::tool {

struct ServedImage {
  image::ImageName name;
  std::string export_name;
  std::string description;
};

struct ServingPlan {
  std::vector<ServedImage> images;
  image::OpenPolicy policy;  // of all; without secrets
  uint64_t offset_bytes = 0;
  bool temporary_overlay = false;  // clients write into a file that vanishes
  bool allocation_depth = false;
  std::vector<std::string> bitmaps;

  std::vector<std::string> addresses;  // see nbd::Listener::on()
  unsigned passed_sockets = 0;
  int socket_mode = -1;
  uint32_t most_clients = 0;  // 0: as many as a server takes
  bool multi_conn = true;
  bool until_last_client = false;
  std::shared_ptr<const nbd::TlsCredentials> tls;

  VhostPlan vhost;
  FusePlan fuse;

  bool fork = false;
  std::optional<std::string> pid_file;
  bool verbose = false;
  bool announce = false;  // tell where clients find what
};

// Gives the exit status. Throws Error.
int serve(const std::string& program, ServingPlan plan, image::Secrets& secrets);

}  // namespace cofre::tool
