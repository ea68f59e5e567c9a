#include "io/reactor.h"

namespace cofre::io {
namespace {

thread_local Reactor* current_reactor = nullptr;

}  // namespace

Reactor::Reactor() = default;
Reactor::~Reactor() = default;

Reactor* Reactor::current() noexcept { return current_reactor; }

void Reactor::enter() noexcept {
  outer_ = current_reactor;
  current_reactor = this;
}

void Reactor::leave() noexcept { current_reactor = outer_; }

void Reactor::post(Wakeup& wakeup) noexcept {
  Wakeup* head = posted_.load(std::memory_order_relaxed);
  do {
    wakeup.next = head;
  } while (!posted_.compare_exchange_weak(head, &wakeup, std::memory_order_seq_cst, std::memory_order_relaxed));
  if (asleep_.load(std::memory_order_seq_cst)) interrupt();
}

bool Reactor::resume_posted() {
  Wakeup* newest_first = posted_.exchange(nullptr, std::memory_order_acquire);
  if (newest_first == nullptr) return false;
  Wakeup* oldest_first = nullptr;
  while (newest_first != nullptr) {
    Wakeup* next = newest_first->next;
    newest_first->next = oldest_first;
    oldest_first = newest_first;
    newest_first = next;
  }
  while (oldest_first != nullptr) {
    Wakeup* next = oldest_first->next;  // the frame that holds the node may be gone after resume()
    oldest_first->waiter.resume();
    oldest_first = next;
  }
  return true;
}

bool Reactor::prepare_to_block() noexcept {
  asleep_.store(true, std::memory_order_seq_cst);
  if (posted_.load(std::memory_order_seq_cst) == nullptr && !stopping_.load(std::memory_order_seq_cst)) return true;
  asleep_.store(false, std::memory_order_relaxed);
  return false;
}

void Reactor::run_loop(const std::atomic<bool>& done) {
  while (!done.load(std::memory_order_acquire)) {
    const bool resumed = resume_posted();
    if (done.load(std::memory_order_acquire)) break;
    turn(/*may_block=*/!resumed);
  }
}

void Reactor::run() {
  enter();
  run_loop(stopping_);
  leave();
}

void Reactor::stop() noexcept {
  stopping_.store(true, std::memory_order_seq_cst);
  interrupt();
}

}  // namespace cofre::io
