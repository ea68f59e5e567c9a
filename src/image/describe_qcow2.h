// The parts of `info` that qcow2 and LUKS headers tell. Home lane.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "format/luks/luks1_header.h"
#include "format/qcow2/image.h"
#include "image/describe.h"

namespace cofre::image {

// `in_qcow2`: as the "encrypt" part of a qcow2 image, which also names the format.
nlohmann::ordered_json luks_json(const luks::Luks1Header& header, bool in_qcow2);

// Fills what depends on the format. `path` is the image file's, for the backing file's full name.
io::task<void> describe_qcow2(qcow2::Image& image, const std::string& path, ImageInfo& info);

}  // namespace cofre::image
