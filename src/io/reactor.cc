#include "io/reactor.h"

#include <utility>

namespace cofre::io {
namespace {

thread_local Reactor* current_reactor = nullptr;

}  // namespace

Reactor::Reactor() = default;
Reactor::~Reactor() = default;

Reactor* Reactor::current() noexcept {
  return current_reactor;
}

Reactor::OnLane::OnLane(Reactor& reactor) noexcept : outer_(std::exchange(current_reactor, &reactor)) {}

Reactor::OnLane::~OnLane() {
  current_reactor = outer_;
}

void Reactor::post(Wakeup& wakeup) noexcept {
  Wakeup* head = posted_.load(std::memory_order_relaxed);
  do {
    wakeup.next = head;
  } while (
      !posted_.compare_exchange_weak(head, &wakeup, std::memory_order_seq_cst, std::memory_order_relaxed));
  if (asleep_.load(std::memory_order_seq_cst)) interrupt();
}

void Reactor::take_posted() noexcept {
  Wakeup* newest_first = posted_.exchange(nullptr, std::memory_order_acquire);
  if (newest_first == nullptr) return;
  Wakeup* const newest = newest_first;
  Wakeup* oldest_first = nullptr;
  while (newest_first != nullptr) {
    Wakeup* next = newest_first->next;
    newest_first->next = oldest_first;
    oldest_first = newest_first;
    newest_first = next;
  }
  (due_tail_ != nullptr ? due_tail_->next : due_head_) = oldest_first;
  due_tail_ = newest;
}

bool Reactor::resume_posted() {
  take_posted();
  // Up to here and no further: what is posted meanwhile must not keep operations from completing.
  Wakeup* const last = due_tail_;
  if (last == nullptr) return false;
  bool at_last = false;
  while (due_head_ != nullptr && !at_last) {
    Wakeup* wakeup = due_head_;
    at_last = wakeup == last;
    due_head_ = wakeup->next;
    if (due_head_ == nullptr) due_tail_ = nullptr;
    wakeup->waiter.resume();  // the frame that holds the node may be gone afterwards
  }
  return true;
}

bool Reactor::prepare_to_block() noexcept {
  asleep_.store(true, std::memory_order_seq_cst);
  if (posted_.load(std::memory_order_seq_cst) == nullptr && !stopping_.load(std::memory_order_seq_cst))
    return true;
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
  const OnLane on_lane(*this);
  run_loop(stopping_);
}

void Reactor::stop() noexcept {
  stopping_.store(true, std::memory_order_seq_cst);
  interrupt();
}

}  // namespace cofre::io
