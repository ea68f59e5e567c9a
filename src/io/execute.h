// Operations carried out at once by the thread that submits them, for the backends.
#pragma once

#include <ctime>

#include "io/reactor.h"

namespace cofre::io {

// Up to this size a transfer costs less here than the trip to another thread.
inline constexpr uint64_t kSmallTransferBytes = 128 * 1024;
inline bool is_small_transfer(const Operation& operation) noexcept {
  return operation.length <= kSmallTransferBytes &&
         (operation.kind == OperationKind::kRead || operation.kind == OperationKind::kWrite);
}

// The events of poll(2) that `fd` has, or gets before `timeout` is over (null: waits for ever); -ETIME when
// it is, or -errno.
int64_t poll_once(int fd, int events, const timespec* timeout);
inline timespec timespec_of(uint64_t nanoseconds) noexcept {
  return {.tv_sec = static_cast<time_t>(nanoseconds / 1'000'000'000),
          .tv_nsec = static_cast<long>(nanoseconds % 1'000'000'000)};
}

// Carries out a small transfer of a file that lives in memory; false, and nothing done, for any other.
bool execute_in_memory(Operation& operation);

// Carries out a small read if all of it is in the page cache (or part: a short read); false, and nothing
// done, if not.
bool read_from_page_cache(Operation& operation);

}  // namespace cofre::io
