// What can be asked of a server while it runs: the commands of the control socket. See docs/serve.md.
#pragma once

#include <chrono>
#include <string>

#include "export/control/connection.h"
#include "export/side_socket.h"
#include "tool/served_images.h"
#include "tool/server_log.h"

namespace cofre::tool {

struct ServerParts {
  ServedImages& images;
  nbd::Server& server;
  io::Lanes& lanes;
  ServerLog& log;
  io::Cancel& stop;  // ends the server
};

// Home lane. What changes something is done one after the other, however many ask.
class ServingControl {
 public:
  // The parts outlive it. Throws Error.
  ServingControl(const std::string& path, ServerParts parts);
  // Once, before it is destroyed: what is being done is finished first.
  io::task<void> stop() { return socket_.stop(); }

 private:
  using Json = control::Json;
  using Command = io::task<Json> (ServingControl::*)(control::Request request);

  static Command find(const std::string& command);
  io::task<Json> carry_out(control::Request request);
  io::task<Json> status(control::Request request);
  io::task<Json> export_add(control::Request request);
  io::task<Json> export_remove(control::Request request);
  io::task<Json> bitmap_list(control::Request request);
  io::task<Json> bitmap_add(control::Request request);
  io::task<Json> bitmap_remove(control::Request request);
  io::task<Json> bitmap_clear(control::Request request);
  io::task<Json> snapshot_list(control::Request request);
  io::task<Json> snapshot_create(control::Request request);
  io::task<Json> snapshot_apply(control::Request request);
  io::task<Json> snapshot_delete(control::Request request);
  io::task<Json> rotate_log(control::Request request);
  io::task<Json> stop_server(control::Request request);

  qcow2::Image& changeable(Served& served, const char* what);

  ServerParts parts_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  io::Mutex changing_;
  control::Handler handler_;
  exporting::SideSocket socket_;
};

}  // namespace cofre::tool
