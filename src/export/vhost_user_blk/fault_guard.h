// Mapped files of another process, which may be made shorter at any moment: touching what is gone must not
// end this process.
//
// The first guarded range installs a handler for SIGBUS, for the whole process: within guarded ranges it puts
// zeroed memory of our own in the place of what is missing and notes the loss; elsewhere the signal does what
// it did before. Any lane.
#pragma once

#include <cstddef>

namespace cofre::vhost {

struct GuardedRange;

class FaultGuard {
 public:
  // [begin, begin + length) is mapped, in pages of `page_bytes`, as long as the guard lives. Throws Error
  // kLimit when too many ranges are guarded.
  FaultGuard(std::byte* begin, size_t length_bytes, size_t page_bytes);
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
  ~FaultGuard();

  // Whether something of it was missing when it was touched.
  bool lost() const noexcept;

 private:
  GuardedRange* range_;
};

}  // namespace cofre::vhost
