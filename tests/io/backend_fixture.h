// Runs a test on every backend that this system permits.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "io/reactor.h"
#include "io/simulated_reactor.h"

namespace cofre::io {

inline std::unique_ptr<Reactor> reactor_named(const std::string& name) {
  if (name == "simulated") return std::make_unique<SimulatedReactor>(42);
  return make_reactor(name == "threads" ? Backend::kThreads : Backend::kIoUring);
}

inline std::vector<std::string> backend_names(bool with_simulated = true) {
  std::vector<std::string> names = {"threads"};
  if (io_uring_permitted()) names.push_back("io_uring");
  if (with_simulated) names.push_back("simulated");
  return names;
}

class OnBackend : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Reactor> owned_ = reactor_named(GetParam());
  Reactor& reactor_ = *owned_;
};

}  // namespace cofre::io
