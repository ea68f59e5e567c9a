// The makers of the reactor backends; make_reactor() picks one.
#pragma once

#include <memory>

#include "io/reactor.h"

namespace cofre::io {

std::unique_ptr<Reactor> make_uring_reactor();
std::unique_ptr<Reactor> make_thread_reactor();

}  // namespace cofre::io
