// What commands that copy into a new image must know of it.
#pragma once

#include <string>

#include "image/create.h"
#include "image/open.h"
#include "image/target_file.h"

namespace cofre::tool {

// Writing to what is being read would destroy it. Throws Error when the target is a file of the source.
void refuse_source_as_target(const image::OpenedImage& source, const std::string& target_path);

// A detached LUKS header is no image to copy into. Throws Error.
void refuse_header_alone(const image::CreatePlan& plan);

// What a new image reads as before anything is written: zero, except where cipher text lies below.
bool new_target_reads_zero(const image::CreatePlan& plan, const image::TargetFile& target);

}  // namespace cofre::tool
