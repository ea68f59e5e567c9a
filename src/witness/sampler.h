// Where do threads spend their time? The kernel notes it (perf_event_open(2), cpu-clock), user mode only.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace cofre::witness {

class PerfSampler {
 public:
  // Samples of a thread's processor time, a second.
  static constexpr unsigned kFrequency_hz = 997;

  PerfSampler() = default;
  ~PerfSampler();
  PerfSampler(const PerfSampler&) = delete;
  PerfSampler& operator=(const PerfSampler&) = delete;

  // Samples this thread from now on. False when the system forbids it, or the thread is gone.
  bool add(pid_t tid);
  bool knows(pid_t tid) const { return rings_.contains(tid); }
  // Gives the address of every sample since the last call.
  void drain(const std::function<void(pid_t tid, uint64_t address)>& visit);

 private:
  struct Ring {
    int fd = -1;
    void* pages = nullptr;
  };

  std::map<pid_t, Ring> rings_;
};

}  // namespace cofre::witness
