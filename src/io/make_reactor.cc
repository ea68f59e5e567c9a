// Picks the backend of a lane.
#include "base/error.h"
#include "io/backends.h"

namespace cofre::io {

std::unique_ptr<Reactor> make_reactor(Backend backend) {
  switch (backend) {
    case Backend::kIoUring:
      return make_uring_reactor();
    case Backend::kThreads:
      return make_thread_reactor();
    case Backend::kAutomatic:
      break;
  }
  try {
    return make_uring_reactor();
  } catch (const Error&) {  // seccomp, io_uring_disabled, old kernel, RLIMIT_MEMLOCK
    return make_thread_reactor();
  }
}

}  // namespace cofre::io
