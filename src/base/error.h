// The one exception type of Cofre, and the helpers that throw it.
//
// An Error carries a kind that callers match on, the errno behind it (0 if none), and one sentence that says
// what happened, where (path, offset) and what to do. It is thrown where the fault is found and caught at the
// boundaries only: a command, a client's request, a job.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace cofre {

enum class ErrorKind {
  kInvalidArgument,  // the caller asked for something that cannot be
  kNotFound,         // no such file, option, snapshot ...
  kExists,           // the thing to be made is there already
  kPermission,       // the operating system says no
  kReadOnly,         // a write to something opened read-only
  kLocked,           // another process uses the image
  kIo,               // the storage below failed
  kNoSpace,          // the storage below is full
  kCorrupt,          // on-disk structures break the specification
  kUnsupported,      // valid, but not something Cofre does
  kMissingSecret,    // an encrypted image and no passphrase given
  kWrongSecret,      // no keyslot opens with the passphrase given
  kCancelled,        // the user or the system asked to stop
  kLimit,            // a bound (memory, size, depth) would be passed
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, int errno_value = 0)
      : std::runtime_error(message), kind_(kind), errno_value_(errno_value) {}

  ErrorKind kind() const noexcept { return kind_; }
  // The errno behind the fault; where there is none, the one that fits the kind best (for NBD, FUSE, exit
  // codes).
  int errno_value() const noexcept;

  // The same error with "context: " put before its sentence.
  Error with_context(const std::string& context) const;

 private:
  ErrorKind kind_;
  int errno_value_;
};

ErrorKind kind_of_errno(int errno_value) noexcept;

[[noreturn]] void throw_error(ErrorKind kind, const std::string& message);
// Throws "message: strerror(errno_value)".
[[noreturn]] void throw_errno(int errno_value, const std::string& message);

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw_error(kind, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail_errno(int errno_value, fmt::format_string<Args...> format, Args&&... args) {
  throw_errno(errno_value, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace cofre
