// The encryption header under the audit: what lies between the keyslots, and what disabled ones have left.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "block/device.h"
#include "format/luks/luks1_header.h"
#include "job/audit.h"

namespace cofre::job {

// Where a LUKS header lies in a file.
struct KeyArea {
  block::Device& device;
  uint64_t offset = 0;
  uint64_t length_bytes = 0;  // to where the payload, or what is not the header's any more, begins
};

// Home lane. Adds findings. Throws Error as the header's reader does.
io::task<void> audit_keys(const KeyArea& area, AuditReport& report);
// Zeroes what lies between the keyslots, overwrites the material of disabled keyslots that were not erased
// with random bytes, then clears what the header has of them. Keyslots in use are not touched.
io::task<void> wipe_keys(const KeyArea& area, AuditFixes& fixes);

}  // namespace cofre::job
