// The encryption header under the audit: what lies between the keyslots, and what disabled ones have left.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "block/device.h"
#include "format/luks/luks1_header.h"
#include "format/luks/luks_container.h"
#include "job/audit.h"

namespace cofre::job {

// Where a LUKS header lies in a file.
struct KeyArea {
  block::Device& device;
  uint64_t offset = 0;
  uint64_t length_bytes = 0;  // to where the payload, or what is not the header's any more, begins
};

// Up to the payload; all of a file that holds nothing else.
KeyArea key_area_of(const luks::LuksContainer& container);

// `header` is the one in the area, valid for it. Home lane. Adds findings. Throws Error as the device.
io::task<void> audit_keys(KeyArea area, const luks::Luks1Header& header, AuditReport& report);
// Zeroes what lies between the keyslots, overwrites the material of disabled keyslots that were not erased
// with random bytes, then clears what the header has of them. Keyslots in use are not touched.
io::task<void> wipe_keys(KeyArea area, luks::Luks1Header header, AuditFixes& fixes);

}  // namespace cofre::job
