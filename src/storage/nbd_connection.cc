#include "storage/nbd_connection.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "base/units.h"

namespace cofre::storage {
namespace {

constexpr auto kRetryPause = std::chrono::milliseconds(200);
constexpr auto kFarewell = std::chrono::seconds(2);
// libnbd takes requests up to 64 MiB; servers need not take more than 32 MiB.
constexpr uint64_t kLargestPayload = 32 * kMiB;

int milliseconds_until(std::chrono::steady_clock::time_point deadline) {
  using std::chrono::milliseconds;
  if (deadline == std::chrono::steady_clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

// Lets libnbd work on its socket once something can be done there. False: nothing happened in time.
bool drive(nbd_handle* handle, int timeout_ms, int event_fd = -1) {
  const unsigned direction = nbd_aio_get_direction(handle);
  pollfd fds[2] = {{.fd = nbd_aio_get_fd(handle), .events = 0, .revents = 0},
                   {.fd = event_fd, .events = POLLIN, .revents = 0}};
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) fds[0].events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) fds[0].events |= POLLOUT;
  if (::poll(fds, event_fd >= 0 ? 2 : 1, timeout_ms) <= 0) return false;
  if (fds[1].revents != 0) {
    uint64_t count = 0;
    while (::read(event_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
  }
  const bool broken = (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
  // What they return, the state of the handle tells too.
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && ((fds[0].revents & POLLIN) != 0 || broken)) {
    nbd_aio_notify_read(handle);
  } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 && ((fds[0].revents & POLLOUT) != 0 || broken)) {
    nbd_aio_notify_write(handle);
  }
  return true;
}

const char* verb_of(NbdRequestKind kind) {
  switch (kind) {
    case NbdRequestKind::kRead:
      return "read";
    case NbdRequestKind::kWrite:
      return "write";
    case NbdRequestKind::kZero:
      return "zero";
    case NbdRequestKind::kTrim:
      return "discard";
    case NbdRequestKind::kFlush:
      return "flush";
    case NbdRequestKind::kStatus:
      break;
  }
  return "tell the allocation of";
}

void note(const char* what, int result, const std::string& name) {
  if (result < 0) fail(ErrorKind::kInvalidArgument, "'{}': {}: {}", name, what, nbd_get_error());
}

}  // namespace

NbdConnection::NbdConnection(const NbdOptions& options)
    : options_(options),
      context_(options.status_context.empty() ? LIBNBD_CONTEXT_BASE_ALLOCATION : options.status_context) {
  const Clock::time_point deadline = options.open_timeout_s == 0
                                         ? Clock::time_point::max()
                                         : Clock::now() + std::chrono::seconds(options.open_timeout_s);
  handle_ = connect(deadline);
  export_ = describe(handle_.get());
  event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_fd_ < 0) fail_errno(errno, "'{}': cannot make an event descriptor", options_.name);
  // Signals are for the thread that made the lanes.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  try {
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error& fault) {
    error = fault.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error == 0) return;
  ::close(event_fd_);
  fail_errno(error, "'{}': cannot start a thread for the connection", options_.name);
}

NbdConnection::~NbdConnection() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  ::eventfd_write(event_fd_, 1);
  thread_.join();
  ::close(event_fd_);
}

void NbdConnection::apply_tls(nbd_handle* handle) const {
  if (!options_.tls) {
    note("TLS", nbd_set_tls(handle, LIBNBD_TLS_DISABLE), options_.name);
    return;
  }
  const NbdTls& tls = *options_.tls;
  note("TLS", nbd_set_tls(handle, LIBNBD_TLS_REQUIRE), options_.name);
  note("TLS", nbd_set_tls_verify_peer(handle, tls.verify_peer), options_.name);
  if (!tls.x509_folder.empty())
    note("TLS", nbd_set_tls_certificates(handle, tls.x509_folder.c_str()), options_.name);
  if (!tls.psk_file.empty()) {
    note("TLS", nbd_set_tls_psk_file(handle, tls.psk_file.c_str()), options_.name);
    note("TLS", nbd_set_tls_username(handle, tls.psk_username.c_str()), options_.name);
  }
}

NbdConnection::Handle NbdConnection::make_handle() const {
  Handle handle(nbd_create());
  if (!handle) fail(ErrorKind::kIo, "'{}': {}", options_.name, nbd_get_error());
  note("export", nbd_set_export_name(handle.get(), options_.export_name.c_str()), options_.name);
  note("context", nbd_add_meta_context(handle.get(), context_.c_str()), options_.name);
  // Buffers are read only where a read succeeded.
  nbd_set_pread_initialize(handle.get(), false);
  apply_tls(handle.get());
  return handle;
}

void NbdConnection::fail_connect() const {
  const int error = nbd_get_errno();
  const std::string why = nbd_get_error();
  ErrorKind kind = error == 0 ? ErrorKind::kIo : kind_of_errno(error);
  if (error == EINVAL || error == ECONNREFUSED) kind = ErrorKind::kIo;
  throw Error(kind, fmt::format("'{}': cannot connect to the NBD server: {}", options_.name, why), error);
}

NbdConnection::Handle NbdConnection::connect_once(Clock::time_point deadline) const {
  Handle handle = make_handle();
  const int started = options_.unix_path.empty()
                          ? nbd_aio_connect_tcp(handle.get(), options_.host.c_str(), options_.port.c_str())
                          : nbd_aio_connect_unix(handle.get(), options_.unix_path.c_str());
  if (started < 0) fail_connect();
  while (nbd_aio_is_connecting(handle.get()) > 0) {
    if (Clock::now() >= deadline)
      fail(ErrorKind::kIo, "'{}': the NBD server did not answer in time", options_.name);
    drive(handle.get(), milliseconds_until(deadline));
  }
  if (nbd_aio_is_ready(handle.get()) <= 0) fail_connect();
  return handle;
}

NbdConnection::Handle NbdConnection::connect(Clock::time_point deadline) const {
  for (;;) {
    try {
      return connect_once(deadline);
    } catch (const Error&) {
      const bool again = deadline != Clock::time_point::max() && Clock::now() + kRetryPause < deadline;
      if (!again) throw;
    }
    std::this_thread::sleep_for(kRetryPause);
  }
}

NbdExport NbdConnection::describe(nbd_handle* handle) const {
  const int64_t length = nbd_get_size(handle);
  if (length < 0)
    fail(ErrorKind::kIo, "'{}': the NBD server tells no size: {}", options_.name, nbd_get_error());
  const auto block = [handle](int type) {
    return static_cast<uint64_t>(std::max<int64_t>(nbd_get_block_size(handle, type), 0));
  };
  NbdExport about = {.length_bytes = static_cast<uint64_t>(length),
                     .smallest_block = block(LIBNBD_SIZE_MINIMUM),
                     .preferred_block = block(LIBNBD_SIZE_PREFERRED),
                     .largest_payload = kLargestPayload,
                     .read_only = nbd_is_read_only(handle) > 0,
                     .can_flush = nbd_can_flush(handle) > 0,
                     .can_fua = nbd_can_fua(handle) > 0,
                     .can_trim = nbd_can_trim(handle) > 0,
                     .can_zero = nbd_can_zero(handle) > 0,
                     .can_fast_zero = nbd_can_fast_zero(handle) > 0,
                     .can_status = nbd_can_meta_context(handle, context_.c_str()) > 0};
  if (const uint64_t largest = block(LIBNBD_SIZE_MAXIMUM); largest > 0)
    about.largest_payload = std::min(largest, kLargestPayload);
  if (!options_.status_context.empty() && !about.can_status)
    fail(ErrorKind::kNotFound, "'{}': the NBD server does not offer '{}'", options_.name, context_);
  return about;
}

void NbdConnection::hand_over(NbdRequest& request) {
  request.connection = this;
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = waiting_.empty();
    waiting_.push_back(&request);
  }
  if (first) ::eventfd_write(event_fd_, 1);
}

void NbdConnection::fail_request(const NbdRequest& request) const {
  if (request.error == ENOTCONN || request.error == ESHUTDOWN)
    throw Error(ErrorKind::kIo,
                fmt::format("'{}': the NBD server is gone: cannot {} {} bytes at offset {}", options_.name,
                            verb_of(request.kind), request.length, request.offset),
                EIO);
  fail_errno(request.error, "'{}': the NBD server cannot {} {} bytes at offset {}", options_.name,
             verb_of(request.kind), request.length, request.offset);
}

// ------------------------------------------------------------------------------------------ the thread's
// part

bool NbdConnection::connected() const noexcept {
  return handle_ && nbd_aio_is_dead(handle_.get()) <= 0 && nbd_aio_is_closed(handle_.get()) <= 0;
}

void NbdConnection::finish(NbdRequest& request, int error) {
  request.error = error;
  request.lane->post(request.wakeup);  // from here on its frame may be gone
}

// Called by libnbd, on this thread.
int NbdConnection::on_done(void* data, int* error) {
  auto& request = *static_cast<NbdRequest*>(data);
  NbdConnection& connection = *request.connection;
  if (*error == ENOTCONN) {
    connection.interrupted_.push_back(&request);
  } else {
    connection.finish(request, *error);
  }
  return 1;  // libnbd may forget the command
}

int NbdConnection::on_extents(void* data, const char* context, uint64_t, uint32_t* entries, size_t count,
                              int*) {
  auto& request = *static_cast<NbdRequest*>(data);
  if (request.connection->context_ != context || count < 2) return 0;
  request.status_known = true;
  request.status_flags = entries[1];
  request.status_bytes = 0;
  for (size_t i = 0; i + 1 < count && entries[i + 1] == request.status_flags; i += 2)
    request.status_bytes += entries[i];
  return 0;
}

int64_t NbdConnection::issue(NbdRequest& request) {
  nbd_handle* const handle = handle_.get();
  const nbd_completion_callback done = {.callback = &on_done, .user_data = &request, .free = nullptr};
  switch (request.kind) {
    case NbdRequestKind::kRead:
      return nbd_aio_pread(handle, request.buffer, request.length, request.offset, done, 0);
    case NbdRequestKind::kWrite:
      return nbd_aio_pwrite(handle, request.buffer, request.length, request.offset, done, request.flags);
    case NbdRequestKind::kZero:
      return nbd_aio_zero(handle, request.length, request.offset, done, request.flags);
    case NbdRequestKind::kTrim:
      return nbd_aio_trim(handle, request.length, request.offset, done, request.flags);
    case NbdRequestKind::kFlush:
      return nbd_aio_flush(handle, done, 0);
    case NbdRequestKind::kStatus:
      break;
  }
  const nbd_extent_callback extents = {.callback = &on_extents, .user_data = &request, .free = nullptr};
  return nbd_aio_block_status(handle, request.length, request.offset, extents, done, 0);
}

void NbdConnection::start(NbdRequest& request) {
  if (broken_) {
    finish(request, ENOTCONN);
    return;
  }
  if (!connected()) {
    interrupted_.push_back(&request);
    return;
  }
  if (issue(request) >= 0) return;
  const int error = nbd_get_errno();
  if (connected()) {
    finish(request, error == 0 ? EIO : error);
  } else {
    interrupted_.push_back(&request);
  }
}

void NbdConnection::take_requests() {
  std::deque<NbdRequest*> taken;
  {
    const std::lock_guard lock(mutex_);
    taken.swap(waiting_);
  }
  for (NbdRequest* const request : taken) start(*request);
}

// A server that comes back with another export is not the one that was lost.
bool NbdConnection::reconnect() {
  if (options_.reconnect_delay_s == 0) return false;
  try {
    handle_ = connect(Clock::now() + std::chrono::seconds(options_.reconnect_delay_s));
    const NbdExport now = describe(handle_.get());
    return now.length_bytes == export_.length_bytes && (!now.read_only || options_.read_only);
  } catch (const Error&) {
    return false;
  }
}

void NbdConnection::lose_connection() {
  if (!broken_ && !reconnect()) broken_ = true;
  std::deque<NbdRequest*> again;
  again.swap(interrupted_);
  for (NbdRequest* const request : again) start(*request);
}

void NbdConnection::wait_for_events() {
  if (!broken_) {
    drive(handle_.get(), -1, event_fd_);
    return;
  }
  pollfd event = {.fd = event_fd_, .events = POLLIN, .revents = 0};
  ::poll(&event, 1, -1);
  uint64_t count = 0;
  while (::read(event_fd_, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

// A server that does not take leave in turn is left without.
void NbdConnection::leave() {
  if (broken_ || !connected() || nbd_aio_disconnect(handle_.get(), 0) < 0) return;
  const Clock::time_point deadline = Clock::now() + kFarewell;
  while (connected() && Clock::now() < deadline) drive(handle_.get(), milliseconds_until(deadline));
}

void NbdConnection::work() {
  for (;;) {
    take_requests();
    if (!broken_ && (!connected() || !interrupted_.empty())) {
      lose_connection();
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      if (!waiting_.empty()) continue;
      if (closing_) break;
    }
    wait_for_events();
  }
  leave();
}

}  // namespace cofre::storage
