// An operation as a blocking system call, for the backends that make them so.
#pragma once

#include "io/reactor.h"

namespace cofre::io {

// The operation's result: what the call gives, or -errno. Blocks the calling thread.
int64_t execute_blocking(const Operation& operation);

}  // namespace cofre::io
