// The frame of watching and sampling: a command or a process that is followed until it ends.
#pragma once

#include <memory>
#include <optional>

#include "witness/command.h"
#include "witness/tracer.h"
#include "witness/witness.h"

namespace cofre::witness {

class Run {
 public:
  using Clock = Tracer::Clock;

  // Starts or attaches. `plant`: false only follows. Throws Error.
  Run(const Options& options, ModuleCache& modules, bool plant);

  // Follows for a moment, to `until` at most. False when it is over.
  bool step(Clock::time_point until);
  Tracer& tracer() noexcept { return tracer_; }
  // Lets go of everything, and writes down what is known of the run.
  void finish(Report& report);

 private:
  void start();
  bool heed_user();

  const Options& options_;
  Tracer tracer_;
  std::optional<Command> command_ = {};
  pid_t pid_ = 0;
  Clock::time_point start_ = {};
  int forwarded_ = 0;
  bool asked_to_end_ = false;
};

}  // namespace cofre::witness
