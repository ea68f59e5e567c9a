// Sampling: with perf where the system permits it, else by stopping threads for a moment.
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "base/error.h"
#include "witness/process_facts.h"
#include "witness/run.h"
#include "witness/sample_book.h"
#include "witness/sampler.h"
#include "witness/witness.h"

namespace cofre::witness {
namespace {

using namespace std::chrono_literals;

constexpr auto kDrainInterval = 20ms;
constexpr auto kStopInterval = 10ms;

// A thread that waits uses no processor: its place tells nothing.
bool is_on_processor(pid_t tid) {
  std::ifstream file("/proc/" + std::to_string(tid) + "/stat");
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  return name_end != std::string::npos && name_end + 2 < text.size() && text[name_end + 2] == 'R';
}

class Sampling {
 public:
  Sampling(const Options& options, ModuleCache& modules)
      : run_(options, modules, false), book_(modules), use_perf_(options.use_perf) {}

  Report to_the_end() {
    while (run_.step(Run::Clock::now() + (use_perf_ ? Run::Clock::duration(kDrainInterval) : kStopInterval)))
      look();
    drain();
    Report report;
    run_.finish(report);
    report.sampled = book_.report(use_perf_ ? "perf" : "ptrace");
    return report;
  }

 private:
  void look() {
    for (const pid_t tid : run_.tracer().threads()) {
      if (use_perf_ && !perf_.add(tid)) use_perf_ = !threads_of(tid).empty() ? false : use_perf_;
      processes_[tid] = run_.tracer().process_of(tid);
      if (!use_perf_ && is_on_processor(tid)) stop_and_note(tid);
    }
    drain();
  }

  void stop_and_note(pid_t tid) {
    if (const auto address = run_.tracer().sample(tid)) book_.add(processes_[tid], *address);
  }

  void drain() {
    perf_.drain([&](pid_t tid, uint64_t address) { book_.add(processes_[tid], address); });
  }

  Run run_;
  SampleBook book_;
  PerfSampler perf_;
  bool use_perf_;
  std::map<pid_t, pid_t> processes_ = {};  // by thread
};

}  // namespace

Report sample(const Options& options) {
  ModuleCache modules;
  return Sampling(options, modules).to_the_end();
}

}  // namespace cofre::witness
