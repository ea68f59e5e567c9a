// What an internal snapshot that is made now says of itself.
#pragma once

#include <string>

#include "format/qcow2/snapshot_table.h"

namespace cofre::tool {

// A longer name is cut off, as QEMU does.
qcow2::SnapshotEntry new_snapshot(const std::string& name);

}  // namespace cofre::tool
