#include "export/fuse/server.h"

#include <utility>

#include "base/error.h"

namespace cofre::fuse {
namespace {

bool decide(AllowOther wanted) {
  const bool may = may_allow_other();
  if (wanted == AllowOther::kOn && !may)
    fail(ErrorKind::kPermission,
         "other users cannot be let in: '/etc/fuse.conf' must have a line 'user_allow_other' for that");
  return wanted != AllowOther::kOff && may;
}

FileSettings with_others(FileSettings settings, bool allow_other) {
  settings.others_may_open = allow_other;
  return settings;
}

}  // namespace

Server::Server(io::Lanes& lanes, unsigned lane, const std::string& path, AllowOther allow_other,
               FileSettings settings)
    : lanes_(lanes),
      lane_(lane),
      mount_point_((require_fuse_device(), path)),
      file_(with_others(std::move(settings), decide(allow_other))) {
  session_.emplace(mount_point_.path(), file_.settings().others_may_open, file_);
}

void Server::start(std::function<void()> on_end) {
  on_end_ = std::move(on_end);
  serving_.spawn(serve());
}

io::task<void> Server::serve() {
  co_await io::enter(lanes_.lane(lane_));
  co_await session_->serve(cancel_);
  const bool from_outside = !cancel_.requested();
  co_await io::enter(lanes_.home());
  if (!from_outside) co_return;
  session_.reset();
  mount_point_.unmount_if_dead();  // the connection may have been severed with the mount left behind
  on_end_();
}

io::task<void> Server::stop() {
  co_await io::enter(lanes_.lane(lane_));
  cancel_.request();
  co_await io::enter(lanes_.home());
  co_await serving_.join();
}

}  // namespace cofre::fuse
