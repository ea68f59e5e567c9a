#include "io/simulated_reactor.h"

#include <cerrno>

#include "base/error.h"
#include "io/execute.h"

namespace cofre::io {

void SimulatedReactor::submit(Operation& operation) {
  pending_.push_back(&operation);
}

bool SimulatedReactor::complete(Operation& operation) {
  if (operation.cancelled) {
    operation.result = -ECANCELED;
    return true;
  }
  if (operation.kind == OperationKind::kPoll) {
    const timespec at_once = {};
    operation.result = poll_once(operation.fd, operation.mode, &at_once);
    return operation.result != -ETIME;
  }
  const bool transfers = operation.kind == OperationKind::kRead || operation.kind == OperationKind::kWrite;
  if (short_transfers_ && transfers && operation.length > 1)
    operation.length = 1 + random_() % operation.length;
  if (operation.kind == OperationKind::kSleep)
    operation.kind = OperationKind::kYield;  // time costs nothing here
  operation.result = execute_blocking(operation);
  return true;
}

std::optional<size_t> SimulatedReactor::choose() {
  const size_t first = random_() % pending_.size();
  for (size_t i = 0; i < pending_.size(); ++i) {
    const size_t chosen = (first + i) % pending_.size();
    if (complete(*pending_[chosen])) return chosen;
  }
  return std::nullopt;
}

std::optional<size_t> SimulatedReactor::choose_timeout() {
  for (size_t i = 0; i < pending_.size(); ++i)
    if (pending_[i]->kind == OperationKind::kPoll && pending_[i]->length != 0) return i;
  return std::nullopt;
}

void SimulatedReactor::turn(bool may_block) {
  std::optional<size_t> chosen;
  if (!pending_.empty()) {
    chosen = choose();
    if (!chosen && may_block) chosen = choose_timeout();
  }
  if (!chosen) {
    if (may_block)
      fail(ErrorKind::kIo, "simulated reactor: everything waits and nothing is in flight (a deadlock)");
    return;
  }
  Operation* operation = pending_[*chosen];
  pending_[*chosen] = pending_.back();
  pending_.pop_back();
  operation->waiter.resume();
}

}  // namespace cofre::io
