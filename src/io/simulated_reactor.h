// A reactor for tests: operations on real descriptors, completed one at a time in an order that a seed
// decides.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "io/reactor.h"

namespace cofre::io {

// Single-threaded: nothing may be posted to it from another thread. The same seed and the same work give the
// same order of completions. Transfers are shortened at random too (never to zero) when `short_transfers` is
// set.
class SimulatedReactor final : public Reactor {
 public:
  explicit SimulatedReactor(uint64_t seed, bool short_transfers = false)
      : random_(seed), short_transfers_(short_transfers) {}

  std::string_view backend() const noexcept override { return "simulated"; }
  void submit(Operation& operation) override;

 protected:
  void turn(bool may_block) override;
  void interrupt() noexcept override {}

 private:
  std::mt19937_64 random_;
  bool short_transfers_;
  std::vector<Operation*> pending_;
};

}  // namespace cofre::io
