// The connection below an NbdDevice: a thread that owns the libnbd handle, and the requests that lanes hand
// to it.
#pragma once

#include <libnbd.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "block/device.h"
#include "io/reactor.h"
#include "storage/nbd.h"

namespace cofre::storage {

enum class NbdRequestKind : uint8_t { kRead, kWrite, kZero, kTrim, kFlush, kStatus };

// In the frame of the coroutine that waits for it.
struct NbdRequest {
  NbdRequestKind kind = NbdRequestKind::kFlush;
  uint32_t flags = 0;  // LIBNBD_CMD_FLAG_...
  uint64_t offset = 0;
  uint64_t length = 0;
  void* buffer = nullptr;
  // kStatus: the first run of equal flags.
  uint64_t status_bytes = 0;
  uint32_t status_flags = 0;
  bool status_known = false;
  // The connection's own.
  int error = 0;  // errno; 0: done
  class NbdConnection* connection = nullptr;
  io::Reactor* lane = nullptr;
  io::Wakeup wakeup = {};
};

// What the server said of the export.
struct NbdExport {
  uint64_t length_bytes = 0;
  uint64_t smallest_block = 0;  // 0: not said
  uint64_t preferred_block = 0;
  uint64_t largest_payload = 0;
  bool read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool can_zero = false;
  bool can_fast_zero = false;
  bool can_status = false;
};

class NbdConnection {
 public:
  // Connects. Throws Error.
  explicit NbdConnection(const NbdOptions& options);
  // Takes leave of the server, if it is still there. Nothing may be in flight.
  ~NbdConnection();
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;

  const NbdExport& exported() const noexcept { return export_; }

  // co_await carry_out(request): continues on its lane when the request is over. Throws Error.
  struct Awaiter {
    NbdConnection& connection;
    NbdRequest& request;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      request.lane = io::Reactor::current();
      request.wakeup.waiter = waiter;
      connection.hand_over(request);
    }
    void await_resume() const {
      if (request.error != 0) connection.fail_request(request);
    }
  };
  Awaiter carry_out(NbdRequest& request) noexcept { return {*this, request}; }

 private:
  using Clock = std::chrono::steady_clock;
  struct CloseHandle {
    void operator()(nbd_handle* handle) const noexcept { nbd_close(handle); }
  };
  using Handle = std::unique_ptr<nbd_handle, CloseHandle>;

  static int on_done(void* request, int* error);
  static int on_extents(void* request, const char* context, uint64_t offset, uint32_t* entries, size_t count,
                        int* error);

  void hand_over(NbdRequest& request);
  [[noreturn]] void fail_request(const NbdRequest& request) const;

  Handle make_handle() const;
  void apply_tls(nbd_handle* handle) const;
  // Until connected, or `deadline`. Throws Error.
  Handle connect(Clock::time_point deadline) const;
  Handle connect_once(Clock::time_point deadline) const;
  [[noreturn]] void fail_connect() const;
  NbdExport describe(nbd_handle* handle) const;

  // The thread's.
  void work();
  void take_requests();
  void start(NbdRequest& request);
  int64_t issue(NbdRequest& request);
  void finish(NbdRequest& request, int error);
  void wait_for_events();
  void leave();
  bool connected() const noexcept;
  void lose_connection();
  bool reconnect();

  const NbdOptions options_;
  const std::string context_;
  NbdExport export_;
  Handle handle_;  // the thread's from when it runs
  bool broken_ = false;
  std::deque<NbdRequest*> interrupted_;  // by a broken connection: to be sent again

  std::mutex mutex_;  // over the two below
  std::deque<NbdRequest*> waiting_;
  bool closing_ = false;
  int event_fd_ = -1;  // tells the thread of them
  std::thread thread_;
};

}  // namespace cofre::storage
