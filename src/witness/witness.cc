#include "witness/witness.h"

#include "witness/count_hits.h"
#include "witness/run.h"

namespace cofre::witness {

Report watch(const Options& options) {
  using namespace std::chrono_literals;
  ModuleCache modules;
  Run run(options, modules, true);
  while (run.step(Run::Clock::now() + 1s)) {
  }
  Report report;
  run.finish(report);
  report.modules = count_hits(modules.all());
  return report;
}

}  // namespace cofre::witness
