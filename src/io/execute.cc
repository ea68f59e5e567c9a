// Operations as blocking system calls, for the backends that make them so and for bulk work on cached files.
#include "io/execute.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

namespace cofre::io {
namespace {

int64_t or_errno(ssize_t result) {
  return result < 0 ? -errno : result;
}

}  // namespace

int64_t poll_once(int fd, int events, const timespec* timeout) {
  pollfd descriptor = {.fd = fd, .events = static_cast<short>(events), .revents = 0};
  const int ready = ppoll(&descriptor, 1, timeout, nullptr);
  if (ready <= 0) return ready < 0 ? -errno : -ETIME;
  return (descriptor.revents & POLLNVAL) != 0 ? -EBADF : descriptor.revents;
}

int64_t execute_blocking(const Operation& operation) {
  const auto length = static_cast<size_t>(operation.length);
  const auto offset = static_cast<off_t>(operation.offset);
  switch (operation.kind) {
    case OperationKind::kRead:
      return or_errno(pread(operation.fd, operation.buffer, length, offset));
    case OperationKind::kWrite:
      return or_errno(pwrite(operation.fd, operation.buffer, length, offset));
    case OperationKind::kDataSync:
      return or_errno(fdatasync(operation.fd));
    case OperationKind::kFallocate:
      return or_errno(fallocate(operation.fd, operation.mode, offset, static_cast<off_t>(operation.length)));
    case OperationKind::kSleep:
      std::this_thread::sleep_for(std::chrono::nanoseconds(operation.length));
      return 0;
    case OperationKind::kPoll: {
      const timespec timeout = timespec_of(operation.length);
      return poll_once(operation.fd, operation.mode, operation.length != 0 ? &timeout : nullptr);
    }
    case OperationKind::kYield:
      return 0;
  }
  return -EINVAL;
}

bool execute_in_memory(Operation& operation) {
  if (operation.residence != Residence::kMemory || !is_small_transfer(operation)) return false;
  operation.result = execute_blocking(operation);
  return true;
}

bool read_from_page_cache(Operation& operation) {
  if (operation.residence != Residence::kPageCache || operation.kind != OperationKind::kRead ||
      !is_small_transfer(operation))
    return false;
  const iovec piece = {operation.buffer, static_cast<size_t>(operation.length)};
  const ssize_t got = preadv2(operation.fd, &piece, 1, static_cast<off_t>(operation.offset), RWF_NOWAIT);
  if (got <= 0) return false;  // an end of file is left to a plain read: some kernels give 0 for "not cached"
  operation.result = got;
  return true;
}

}  // namespace cofre::io
