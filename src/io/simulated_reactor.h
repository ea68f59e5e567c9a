// A reactor for tests: operations on real descriptors, completed one at a time in an order that a seed
// decides.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "io/reactor.h"

namespace cofre::io {

// Single-threaded: nothing may be posted to it from another thread. The same seed and the same work give the
// same order of completions. Transfers are shortened at random too (never to zero) when `short_transfers` is
// set. A kPoll completes when its descriptor is ready; its time is over when nothing else can go on.
class SimulatedReactor final : public Reactor {
 public:
  explicit SimulatedReactor(uint64_t seed, bool short_transfers = false)
      : random_(seed), short_transfers_(short_transfers) {}

  std::string_view backend() const noexcept override { return "simulated"; }
  void submit(Operation& operation) override;
  void cancel(Operation& operation) override { operation.cancelled = true; }

 protected:
  void turn(bool may_block) override;
  void interrupt() noexcept override {}

 private:
  // Whether it completes now; the result is set then.
  bool complete(Operation& operation);
  // The place in pending_ of the next one to complete, its result set; nothing when all wait for descriptors.
  std::optional<size_t> choose();
  std::optional<size_t> choose_timeout();

  std::mt19937_64 random_;
  bool short_transfers_;
  std::vector<Operation*> pending_;
};

}  // namespace cofre::io
