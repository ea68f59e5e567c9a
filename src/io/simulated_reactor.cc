#include "io/simulated_reactor.h"

#include "base/error.h"

namespace cofre::io {

void SimulatedReactor::submit(Operation& operation) {
  pending_.push_back(&operation);
}

void SimulatedReactor::turn(bool may_block) {
  if (pending_.empty()) {
    if (may_block)
      fail(ErrorKind::kIo, "simulated reactor: everything waits and nothing is in flight (a deadlock)");
    return;
  }
  const size_t chosen = random_() % pending_.size();
  Operation* operation = pending_[chosen];
  pending_[chosen] = pending_.back();
  pending_.pop_back();
  const bool transfers = operation->kind == OperationKind::kRead || operation->kind == OperationKind::kWrite;
  if (short_transfers_ && transfers && operation->length > 1)
    operation->length = 1 + random_() % operation->length;
  if (operation->kind == OperationKind::kSleep)
    operation->kind = OperationKind::kYield;  // time costs nothing here
  operation->result = execute_blocking(*operation);
  operation->waiter.resume();
}

}  // namespace cofre::io
