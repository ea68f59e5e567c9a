#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace cofre {

ErrorKind kind_of_errno(int errno_value) noexcept {
  switch (errno_value) {
    case ENOENT:
    case ENOTDIR:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kExists;
    case EACCES:
    case EPERM:
      return ErrorKind::kPermission;
    case EROFS:
      return ErrorKind::kReadOnly;
    case EAGAIN:
    case EBUSY:
      return ErrorKind::kLocked;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ErrorKind::kNoSpace;
    case EINVAL:
    case EISDIR:
      return ErrorKind::kInvalidArgument;
    case ENOTSUP:
    case ENOSYS:
      return ErrorKind::kUnsupported;
    case ECANCELED:
    case EINTR:
      return ErrorKind::kCancelled;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return ErrorKind::kLimit;
    default:
      return ErrorKind::kIo;
  }
}

int Error::errno_value() const noexcept {
  if (errno_value_ != 0) return errno_value_;
  switch (kind_) {
    case ErrorKind::kInvalidArgument:
      return EINVAL;
    case ErrorKind::kNotFound:
      return ENOENT;
    case ErrorKind::kExists:
      return EEXIST;
    case ErrorKind::kPermission:
    case ErrorKind::kMissingSecret:
    case ErrorKind::kWrongSecret:
      return EPERM;
    case ErrorKind::kReadOnly:
      return EROFS;
    case ErrorKind::kLocked:
      return EAGAIN;
    case ErrorKind::kNoSpace:
      return ENOSPC;
    case ErrorKind::kUnsupported:
      return ENOTSUP;
    case ErrorKind::kCancelled:
      return ECANCELED;
    case ErrorKind::kLimit:
      return ENOMEM;
    case ErrorKind::kIo:
    case ErrorKind::kCorrupt:
      return EIO;
  }
  return EIO;
}

Error Error::with_context(const std::string& context) const {
  return Error(kind_, context + ": " + what(), errno_value_);
}

void throw_error(ErrorKind kind, const std::string& message) {
  throw Error(kind, message);
}

void throw_errno(int errno_value, const std::string& message) {
  throw Error(kind_of_errno(errno_value), message + ": " + std::generic_category().message(errno_value),
              errno_value);
}

}  // namespace cofre
