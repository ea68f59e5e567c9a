// Checks the metadata of a qcow2 image against itself, and repairs it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "format/qcow2/image.h"
#include "io/reactor.h"

namespace cofre::qcow2 {

struct CheckOptions {
  bool repair_leaks = false;
  bool repair_errors = false;  // implies repair_leaks where leaks stand in the way
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
  std::function<void(const std::string&)> report = nullptr;  // one sentence a finding
  std::function<bool()> cancelled = nullptr;
  io::Reactor* reader = nullptr;  // another lane, to read tables ahead on; null: the home lane reads
};

struct CheckResult {
  uint64_t corruptions = 0;   // left after repair
  uint64_t leaks = 0;         // left after repair
  uint64_t check_errors = 0;  // places that could not be checked
  uint64_t corruptions_fixed = 0;
  uint64_t leaks_fixed = 0;
  uint64_t image_end_offset = 0;  // end of the last cluster in use
  uint64_t total_clusters = 0;
  uint64_t allocated_clusters = 0;
  uint64_t compressed_clusters = 0;
  uint64_t fragmented_clusters = 0;
};

// `image` was opened with OpenOptions::for_check (writable to repair). Without repair every table
// is read once, in the order of the file. Memory: half a byte a host cluster, a byte more where clusters are
// referenced several times; bounded by what the host file takes and kSpareMemoryBytes (check.cc).
io::task<CheckResult> check(Image& image, const CheckOptions& options);

}  // namespace cofre::qcow2
