// Lets the holders of tickets 0, 1, 2 ... through one at a time, in that order: what they begin before they
// leave is begun in that order.
#pragma once

#include <cstdint>

#include "io/sync.h"
#include "job/job_control.h"

namespace cofre::job {

// Its state belongs to the job's home lane; callers come from any lane and return to theirs.
class Turnstile {
 public:
  explicit Turnstile(JobControl& control) : control_(control) {}

  // Waits for the turn of `ticket`; false: the job stopped, and the turn may never come.
  io::task<bool> enter(uint64_t ticket) {
    io::Reactor& here = *io::Reactor::current();
    co_await io::enter(control_.home());
    while (turn_ != ticket && !control_.stopped()) co_await waiting_.wait();
    co_await io::enter(here);
    co_return !control_.stopped();
  }

  // The holder of the current turn is done.
  io::task<void> leave() {
    io::Reactor& here = *io::Reactor::current();
    co_await io::enter(control_.home());
    ++turn_;
    waiting_.wake_all();
    co_await io::enter(here);
  }

  // Lets everybody see that the job stopped. Leaves the caller on the home lane.
  io::task<void> release_all() {
    co_await io::enter(control_.home());
    waiting_.wake_all();
  }

 private:
  JobControl& control_;
  uint64_t turn_ = 0;
  io::WaitQueue waiting_;
};

}  // namespace cofre::job
