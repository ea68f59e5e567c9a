// From any lane to the image's home lane and back.
#pragma once

#include <exception>
#include <optional>
#include <utility>

#include "format/qcow2/state.h"

namespace cofre::qcow2 {

// Runs `work` at home and comes back to the lane it was awaited on, also when it throws.
template <typename T>
io::task<T> at_home(State& state, io::task<T> work) {
  io::Reactor& lane = *io::Reactor::current();
  co_await io::enter(state.home);
  std::exception_ptr failure;
  if constexpr (std::is_void_v<T>) {
    try {
      co_await std::move(work);
    } catch (...) {
      failure = std::current_exception();
    }
    co_await io::enter(lane);
    if (failure) std::rethrow_exception(failure);
  } else {
    std::optional<T> result;
    try {
      result.emplace(co_await std::move(work));
    } catch (...) {
      failure = std::current_exception();
    }
    co_await io::enter(lane);
    if (failure) std::rethrow_exception(failure);
    co_return std::move(*result);
  }
}

}  // namespace cofre::qcow2
