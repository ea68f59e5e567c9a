// The transmission phase of a connection, server side: requests are taken off the stream many at a time,
// carried out side by side, and answered many at a time, in the order they are done.
//
// One lane's. Source: the NBD protocol specification, "Transmission", "Request types".
//
// Memory: a connection holds at most limits.connection_bytes of payload (or one longer request) and
// limits.requests requests. The first kGuaranteedBytes are its own; what it holds beyond comes out of a
// budget of all connections. So a client that does not read its answers slows down nobody's small requests.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "export/nbd/budget.h"
#include "export/nbd/channel.h"
#include "export/nbd/negotiated.h"
#include "io/sync.h"

namespace cofre::nbd {

inline constexpr uint64_t kGuaranteedBytes = kMiB;

struct TransmissionLimits {
  uint32_t requests = 256;
  uint64_t connection_bytes = 16 * kMiB;
};

class Transmission {
 public:
  // All outlive it. `note_fault` hears of requests that failed, on the connection's lane. `activity`: of the
  // export on this lane; null where nobody counts.
  Transmission(Channel& channel, Negotiated agreed, Budget& budget, TransmissionLimits limits,
               std::function<void(const Error&)> note_fault, exporting::LaneActivity* activity = nullptr);
  ~Transmission();

  // Until the client disconnects or breaks the protocol, or its waits are cancelled. What was begun is
  // finished and, if the client still listens, answered.
  io::task<void> run();

 private:
  struct Request;

  // ---- receiving ----
  size_t buffered() const noexcept { return end_ - begin_; }
  io::task<bool> fill(size_t needed);
  io::task<bool> take_request();
  io::task<bool> take_payload(Request& request);
  io::task<bool> skip_payload(uint64_t count);
  void take_buffered(Bytes into) noexcept;

  // ---- admission ----
  io::task<Request*> admit(const RequestHeader& header, uint64_t held_bytes);
  void release(Request& request) noexcept;

  // ---- carrying out (commands.cc) ----
  void begin_serving(Request& request);
  static io::detail::Detached serve(Transmission& transmission, Request& request);
  // Not a coroutine itself: gives the device's own task where that is all there is to do.
  io::task<void> carry_out(Request& request);
  io::task<void> trim(const RequestHeader& header);
  io::task<void> cache(const RequestHeader& header);
  io::task<void> write_zeroes(const RequestHeader& header);
  io::task<void> block_status(Request& request);
  io::task<std::vector<exporting::StatusRun>> status_runs(const MetaContext& context,
                                                          const RequestHeader& header);
  void append_status_chunk(Request& request, const MetaContext& context,
                           const std::vector<exporting::StatusRun>& runs, bool last);

  // ---- answering ----
  void note_end(const Request& request) noexcept;
  void answer(Request& request);
  void prepare_reply(Request& request);
  void prepare_read_reply(Request& request);
  void prepare_fault_reply(Request& request);
  static io::detail::Detached send_replies(Transmission& transmission);
  size_t gather(std::vector<iovec>& pieces);

  Channel& channel_;
  Negotiated agreed_;
  Budget& budget_;
  TransmissionLimits limits_;
  std::function<void(const Error&)> note_fault_;
  block::Device& device_;
  exporting::LaneActivity* const activity_;

  AlignedBuffer received_;  // what lies in [begin_, end_) was received and not looked at
  size_t begin_ = 0;
  size_t end_ = 0;
  bool took_since_wait_ = false;  // requests began since this coroutine last let others run
  bool large_payloads_ = false;   // the last request brought a large payload: the next may well too

  std::vector<std::unique_ptr<Request>> requests_;
  Request* free_ = nullptr;
  uint32_t in_flight_ = 0;   // requests begun and not yet answered
  uint64_t held_bytes_ = 0;  // by them
  io::WaitQueue room_;       // the receiver, waiting for some to end

  Request* replies_head_ = nullptr;
  Request* replies_tail_ = nullptr;
  bool sending_ = false;
  bool broken_ = false;  // the client takes no more answers
  std::vector<iovec> pieces_;
  std::vector<Request*> being_sent_;
};

// A request in flight, and its answer.
struct Transmission::Request {
  RequestHeader header;
  AlignedBuffer buffer;  // of a read or write
  uint64_t held_bytes = 0;
  uint64_t budgeted_bytes = 0;  // of them, from the budget of all
  Fault fault = Fault::kNone;
  exporting::LaneActivity::Begun begun;
  std::array<std::byte, 96> reply;
  size_t reply_bytes = 0;
  ConstBytes payload;             // sent behind `reply`
  std::vector<std::byte> status;  // chunks of a block status, whole
  Request* next = nullptr;
};

}  // namespace cofre::nbd
