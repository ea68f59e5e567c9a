#include "export/vhost_user_blk/queue.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <utility>

#include "base/error.h"

namespace cofre::vhost {
namespace {

// How often a ring is looked at whose front end gave no descriptor to wait for.
constexpr uint64_t kUnaskedLookNs = 50'000;

// The driver works on what is done while the rest of a long batch goes on here.
constexpr unsigned kMostUnpublished = 8;

// Taken in one turn of the lane, on which others live too: a disk that never waits would have no end of them.
constexpr unsigned kMostPerTurn = 256;

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Descriptors of the front end do not block: see Session.
void signal(const std::shared_ptr<const OwnedFd>& fd) {
  if (!fd) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd->get(), &one, sizeof one);
}

}  // namespace

Queue::~Queue() {
  if (!at_rest()) std::terminate();  // requests would write to a dead queue
}

void Queue::start(QueueStart start) {
  std::unique_ptr<Ring> ring = start.packed ? make_packed_ring(start.ring) : make_split_ring(start.ring);
  ring_ = std::move(ring);
  start_ = std::move(start);
  stopping_ = broken_ = false;
  cancel_ = std::make_unique<io::Cancel>();
  looping_ = true;
  run(*this);
}

io::task<uint32_t> Queue::stop() {
  stopping_ = true;
  cancel_->request();
  while (!at_rest()) co_await rest_.wait();
  publish();
  const uint32_t base = ring_->base();
  ring_.reset();
  start_ = {};
  co_return base;
}

// ---- the loop ----

bool Queue::may_go_on() {
  if (start_.memory->lost() || (start_.inflight && start_.inflight->lost()))
    break_down("the front end took memory away that it had shared");
  return !stopping_ && !broken_;
}

// Starts the requests that `take` gives; true: there was one, and there may be more.
template <typename Take>
bool Queue::begin_some(Take take) {
  unsigned taken = 0;
  Request* request = nullptr;
  try {
    request = &allocate();
    while (taken < kMostPerTurn && take(request->chain)) {
      ++taken;
      begin(*std::exchange(request, nullptr));
      request = &allocate();
    }
  } catch (const Error& error) {
    break_down(error.what());
  } catch (const std::bad_alloc&) {
    break_down("no memory for a request");
  }
  if (request != nullptr) release(*request);
  return taken > 0;
}

io::detail::Detached Queue::run(Queue& queue) {
  // The server before this one may have died between telling the driver and calling it.
  if (queue.start_.inflight) signal(queue.start_.call);
  queue.ring_->suppress_kicks();
  while (queue.begin_some([&queue](Chain& chain) { return queue.ring_->take_interrupted(chain); })) {
  }
  const uint64_t poll_ns = queue.device_.settings().poll_ns;
  uint64_t worked_ns = poll_ns > 0 ? now_ns() : 0;
  while (queue.may_go_on()) {
    const bool took = queue.begin_some([&queue](Chain& chain) { return queue.ring_->take(chain); });
    if (took && poll_ns > 0) worked_ns = now_ns();
    if (took || (poll_ns > 0 && now_ns() - worked_ns < poll_ns)) {
      queue.publish();  // what needed no wait
      co_await io::yield();
      queue.publish();
    } else if (queue.ring_->request_kicks() && queue.may_go_on()) {
      co_await queue.wait_for_kick();
      queue.ring_->suppress_kicks();
      if (poll_ns > 0) worked_ns = now_ns();
    }
  }
  queue.looping_ = false;
  if (queue.at_rest()) queue.rest_.wake_all();
}

io::task<void> Queue::wait_for_kick() {
  waiting_ = true;
  if (start_.kick) {
    const int64_t events = co_await io::async_readable(start_.kick->get(), cancel_.get());
    uint64_t kicks = 0;
    const ssize_t got = events > 0 ? ::read(start_.kick->get(), &kicks, sizeof kicks) : 0;
    if (events != -ECANCELED && (events < 0 || (events & POLLIN) == 0 || got == 0))
      break_down("its kick descriptor is none any more");
  } else {
    co_await io::sleep_ns(kUnaskedLookNs);
  }
  waiting_ = false;
}

// The driver, or the front end, broke the rules: this queue stands still, everything else goes on.
void Queue::break_down(const std::string& why) {
  if (std::exchange(broken_, true)) return;
  signal(start_.error);
  device_.log(fmt::format("queue {}: {}; it stands still until the guest resets the device", index_, why));
}

// ---- requests ----

Queue::Request& Queue::allocate() {
  if (free_ == nullptr) {
    requests_.push_back(std::make_unique<Request>());
    return *requests_.back();
  }
  return *std::exchange(free_, free_->next_free);
}

void Queue::release(Request& request) noexcept {
  request.next_free = std::exchange(free_, &request);
}

void Queue::begin(Request& request) {
  ++in_flight_;
  request.written_bytes =
      static_cast<uint32_t>(std::min<uint64_t>(total_bytes(request.chain.writable), UINT32_MAX));
  try {
    serve(*this, request);
  } catch (const std::bad_alloc&) {  // no memory for its frame
    finish(request);
    throw;
  }
}

io::detail::Detached Queue::serve(Queue& queue, Request& request) {
  try {
    co_await queue.device_.carry_out(request.chain, queue.activity_);
    queue.ring_->complete(request.chain, request.written_bytes);
  } catch (const Error& error) {
    queue.break_down(error.what());
  } catch (const std::bad_alloc&) {
    queue.break_down("no memory for a request");
  }
  queue.finish(request);
}

void Queue::finish(Request& request) {
  release(request);
  --in_flight_;
  if (++unpublished_ >= kMostUnpublished) publish();
  if (!publishing_ && (waiting_ || !looping_)) publish_soon(*this);
}

// When others that end in this turn have ended too.
io::detail::Detached Queue::publish_soon(Queue& queue) {
  queue.publishing_ = true;
  co_await io::yield();
  queue.publish();
  queue.publishing_ = false;
  if (queue.at_rest()) queue.rest_.wake_all();
}

void Queue::publish() {
  unpublished_ = 0;
  if (ring_->publish()) signal(start_.call);
}

}  // namespace cofre::vhost
