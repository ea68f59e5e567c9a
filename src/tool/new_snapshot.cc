#include "tool/new_snapshot.h"

#include <chrono>

namespace cofre::tool {
namespace {

// The longest name that QEMU keeps.
constexpr size_t kMaxNameBytes = 255;

}  // namespace

qcow2::SnapshotEntry new_snapshot(const std::string& name) {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_epoch);
  const std::chrono::nanoseconds rest = since_epoch - seconds;
  qcow2::SnapshotEntry snapshot;
  snapshot.name = name.substr(0, kMaxNameBytes);
  snapshot.date_seconds = static_cast<uint32_t>(seconds.count());
  snapshot.date_nanoseconds = static_cast<uint32_t>(rest.count());
  snapshot.icount = 0;  // as qemu-img has it: no machine has run
  return snapshot;
}

}  // namespace cofre::tool
