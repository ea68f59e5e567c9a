#include "io/lanes.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <system_error>

#include "base/error.h"

namespace cofre::io {

unsigned available_cpus() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
  return std::max(1u, std::thread::hardware_concurrency());
}

Lanes::Lanes(unsigned count, Backend backend) {
  if (count == 0) count = available_cpus();
  for (unsigned i = 0; i < count; ++i) reactors_.push_back(make_reactor(backend));
  // Signals are for the home lane, but for those that a lane brings about itself.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (unsigned i = 1; i < count; ++i)
      threads_.emplace_back([reactor = reactors_[i].get()] { reactor->run(); });
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    stop();
    fail(ErrorKind::kLimit, "cannot start {} lanes (threads): {}; ask for fewer", count, error.what());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Lanes::~Lanes() {
  stop();
}

void Lanes::stop() noexcept {
  for (unsigned i = 1; i < reactors_.size(); ++i) reactors_[i]->stop();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace cofre::io
