// Operations carried out at once by the thread that submits them, for the backends.
#pragma once

#include "io/reactor.h"

namespace cofre::io {

// Up to this size a transfer costs less here than the trip to another thread.
inline constexpr uint64_t kSmallTransferBytes = 128 * 1024;
inline bool is_small_transfer(const Operation& operation) noexcept {
  return operation.length <= kSmallTransferBytes &&
         (operation.kind == OperationKind::kRead || operation.kind == OperationKind::kWrite);
}

// Carries out a small transfer of a file that lives in memory; false, and nothing done, for any other.
bool execute_in_memory(Operation& operation);

// Carries out a small read if all of it is in the page cache (or part: a short read); false, and nothing
// done, if not.
bool read_from_page_cache(Operation& operation);

}  // namespace cofre::io
