// SNAPSHOT_PARAM of the command line: which internal snapshot of an image is meant.
//
// Either "snapshot.id=ID,snapshot.name=NAME" (one of them or both), or an ID or a name as it is; an ID is
// looked for first. Any lane.
#pragma once

#include <cstddef>
#include <string>

#include "format/qcow2/image.h"

namespace cofre::image {

// Its place in image.snapshots(). Throws Error kNotFound, kInvalidArgument for what is no such parameter.
size_t choose_snapshot(const qcow2::Image& image, const std::string& param);

}  // namespace cofre::image
