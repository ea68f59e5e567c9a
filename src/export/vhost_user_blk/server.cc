#include "export/vhost_user_blk/server.h"

#include <cstring>

#include "base/error.h"
#include "export/vhost_user_blk/session.h"

namespace cofre::vhost {
namespace {

constexpr uint64_t kRetryNs = 100'000'000;

}  // namespace

Server::Server(io::Lanes& lanes, DeviceSettings settings, nbd::Listener listener)
    : lanes_(lanes), device_(std::move(settings)), listener_(std::move(listener)) {
  serving_.spawn(serve_front_ends());
}

io::task<void> Server::serve_front_ends() {
  while (!cancel_.requested()) {
    const int64_t accepted = co_await io::accept(listener_.fd(), &cancel_);
    if (accepted == -ECANCELED) co_return;
    if (accepted < 0) {
      device_.log(fmt::format("cannot take a front end: {}", std::strerror(static_cast<int>(-accepted))));
      co_await io::sleep_ns(kRetryNs);
      continue;
    }
    exporting::Activity* const activity = device_.settings().activity;
    if (activity != nullptr) activity->client_came();
    Session session(OwnedFd(static_cast<int>(accepted)), device_, lanes_, cancel_);
    try {
      co_await session.run();
    } catch (const std::exception& error) {
      device_.log(fmt::format("the front end is cut off: {}", error.what()));
    }
    if (activity != nullptr) activity->client_went();
  }
}

io::task<void> Server::stop() {
  cancel_.request();
  co_await serving_.join();
}

}  // namespace cofre::vhost
