// Measures images over cluster sizes, encryptions and operations: in rounds, each of which does everything
// once, so that a slow moment of the machine meets all of them.
//
// A round makes one image at a time of each kind, converts the source into it, sends it the requests of the
// other operations, and removes it. The storage is not waited for (no flush counts): what is measured is the
// way of the bytes through format and cipher into the host's cache.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "io/lanes.h"
#include "job/request_load.h"
#include "tool/bench/qemu_peer.h"
#include "tool/bench/scratch.h"

namespace cofre::tool {

enum class BenchOperation {
  kConvert,    // a raw file into a new image
  kRead,       // a full image from start to end
  kWrite,      // into a new image from start to end
  kRandRead,   // small requests scattered over a full image
  kRandWrite,  // the same, writing over what is there
};
inline constexpr BenchOperation kBenchOperations[] = {BenchOperation::kConvert, BenchOperation::kRead,
                                                      BenchOperation::kWrite, BenchOperation::kRandRead,
                                                      BenchOperation::kRandWrite};
std::string_view operation_name(BenchOperation operation) noexcept;
bool is_scattered(BenchOperation operation) noexcept;

inline constexpr std::string_view kBenchEncryptions[] = {"none", "aes", "luks"};

struct SweepRequest {
  std::vector<uint64_t> cluster_sizes;   // bytes, as qcow2 has them
  std::vector<std::string> encryptions;  // of kBenchEncryptions
  std::vector<BenchOperation> operations;
  uint64_t size_bytes = 0;  // of the images; a multiple of kBenchSizeUnit, kMaxBenchSize at most
  unsigned rounds = 3;
};
inline constexpr uint64_t kBenchSizeUnit = kMiB;
inline constexpr uint64_t kMaxBenchSize = kTiB;

// One program at one operation on one kind of image.
struct SweepFigure {
  BenchOperation operation = BenchOperation::kConvert;
  std::string encryption;
  uint64_t cluster_bytes = 0;
  std::string program;
  std::vector<double> seconds;           // a round each
  std::vector<double> overhead_seconds;  // a round each: what the program spends without any image, if known
  uint64_t bytes = 0;                    // moved in those seconds
  uint64_t requests = 0;

  // The median round, without the overhead. Nothing when too little was moved to tell.
  std::optional<double> typical_seconds() const;
};

// What the requests of an operation are, of kConvert none.
job::RequestLoad load_of(BenchOperation operation, uint64_t size_bytes);

// The files that a sweep makes in its scratch folder.
std::vector<std::string> sweep_file_names();
// The most that they take together, in bytes.
uint64_t sweep_needs_bytes(const SweepRequest& request);

// `done` of `total` measurements are over; `next` names the one that comes.
using SweepProgress = std::function<void(size_t done, size_t total, const std::string& next)>;

// Figures in the order of operations, encryptions, cluster sizes and programs. `peer` may be null. On the
// thread that made `lanes`. Throws Error; kCancelled after Ctrl-C.
std::vector<SweepFigure> run_sweep(const SweepRequest& request, QemuPeer* peer, const Scratch& scratch,
                                   io::Lanes& lanes, const SweepProgress& progress);

}  // namespace cofre::tool
