// The lanes of a process: one thread with its own reactor each. Lane 0, the home lane, is the thread that
// made them.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "io/reactor.h"

namespace cofre::io {

// Nothing may be in flight on any lane when they are destroyed.
class Lanes {
 public:
  // `count` lanes in all (0: one for each CPU this process may use). Throws Error.
  explicit Lanes(unsigned count = 0, Backend backend = Backend::kAutomatic);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  unsigned count() const noexcept { return static_cast<unsigned>(reactors_.size()); }
  Reactor& home() noexcept { return *reactors_[0]; }
  Reactor& lane(unsigned index) noexcept { return *reactors_[index]; }

  // Runs `work` on the home lane; to be called on the thread that made the lanes.
  template <typename T>
  T run(task<T> work) {
    return home().run_until_done(std::move(work));
  }

 private:
  void stop() noexcept;

  std::vector<std::unique_ptr<Reactor>> reactors_;
  std::vector<std::thread> threads_;
};

// The CPUs that this process may use.
unsigned available_cpus() noexcept;

}  // namespace cofre::io
