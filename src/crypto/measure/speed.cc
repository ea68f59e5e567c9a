#include "crypto/measure/speed.h"

#include <algorithm>

namespace cofre::crypto {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct Timed {
  size_t bytes = 0;
  Seconds took{};
};

Timed time_work(SpeedSubject& subject, size_t times) {
  const Clock::time_point start = Clock::now();
  const size_t bytes = subject.work(times);
  return {bytes, Clock::now() - start};
}

// How often the subject does its work in about `turn`.
size_t times_in_turn(SpeedSubject& subject, Seconds turn) {
  for (size_t times = 1;; times *= 2) {
    const Seconds took = time_work(subject, times).took;
    if (took < turn / 4) continue;
    return std::max<size_t>(1, static_cast<size_t>(static_cast<double>(times) * (turn / took)));
  }
}

Speed summary(std::vector<double>& speeds) {
  if (speeds.empty()) return {};
  std::ranges::sort(speeds);
  return {speeds.back(), speeds[speeds.size() / 2]};
}

}  // namespace

std::vector<Speed> measure_speeds(std::span<const std::unique_ptr<SpeedSubject>> subjects,
                                  const SpeedEffort& effort, const SpeedProgress& progress) {
  std::vector<size_t> times(subjects.size(), 0);
  std::vector<std::vector<double>> speeds(subjects.size());
  const size_t total = subjects.size() * static_cast<size_t>(effort.turns);
  size_t done = 0;
  for (int turn = 0; turn < effort.turns; ++turn) {
    for (size_t i = 0; i < subjects.size(); ++i) {
      if (subjects[i]) {
        SpeedSubject& subject = *subjects[i];
        if (times[i] == 0) times[i] = times_in_turn(subject, effort.turn);
        subject.work(1);  // its code and data come into the caches
        const Timed timed = time_work(subject, times[i]);
        speeds[i].push_back(static_cast<double>(timed.bytes) / timed.took.count());
      }
      if (progress) progress(++done, total);
    }
  }
  std::vector<Speed> summaries;
  for (std::vector<double>& of_one : speeds) summaries.push_back(summary(of_one));
  return summaries;
}

}  // namespace cofre::crypto
