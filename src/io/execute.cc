#include "io/execute.h"

#include <fcntl.h>
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
    case OperationKind::kYield:
      return 0;
  }
  return -EINVAL;
}

}  // namespace cofre::io
