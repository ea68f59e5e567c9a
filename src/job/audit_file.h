// The audit's look at one file, from its start to its end: read in large pieces, examined on all lanes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "block/device.h"
#include "crypto/sector_look.h"
#include "format/qcow2/cluster_roles.h"
#include "io/lanes.h"
#include "job/job_control.h"

namespace cofre::job {

struct AuditedFile {
  block::Device& device;
  uint64_t granule_bytes = 0;                      // at least a sector, at most 2 MiB
  std::function<uint8_t(uint64_t granule)> roles;  // qcow2::Role; called on any lane
  bool frequencies = true;                         // cipher text has even ones: not with ECB
};

// Neighbouring sectors of one use that do not look like cipher text. Metadata is left out.
struct Sight {
  enum class What : uint8_t { kLook, kRepeatedSector, kRepeatedBlock };
  uint64_t begin = 0;
  uint64_t end = 0;
  uint8_t roles = 0;
  crypto::Look look = crypto::Look::kRandom;
  What what = What::kLook;
};
using SightVisit = std::function<io::task<void>(const Sight& sight)>;

// Visits them in the order of the file, on the home lane.
io::task<void> look_through(const AuditedFile& file, JobControl& control, io::Lanes& lanes, SightVisit visit);

}  // namespace cofre::job
