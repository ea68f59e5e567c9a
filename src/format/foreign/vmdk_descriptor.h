// The descriptor of a VMDK: text that says what the image is and which extents it is made of. It stands in a
// file of its own, or within the only extent.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace cofre::foreign {

struct VmdkExtentLine {
  uint64_t sectors = 0;
  std::string type;             // FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE ...
  std::string name;             // of the file; ZERO has none
  uint64_t offset_sectors = 0;  // of a flat extent in its file
};

struct VmdkDescriptor {
  uint32_t cid = 0;
  uint32_t parent_cid = 0;
  std::string create_type;
  std::vector<VmdkExtentLine> extents;
};

// Longest text that is read.
inline constexpr uint64_t kMaxVmdkDescriptorBytes = 1 << 20;

// Whether a file starts as a descriptor file does: after comments, a version that is known.
bool is_vmdk_descriptor(ConstBytes start) noexcept;

// `image` is the name for messages. Throws Error kCorrupt; kUnsupported for an image with a parent; kLimit.
VmdkDescriptor parse_vmdk_descriptor(std::string_view text, const std::string& image);

// Throws Error kUnsupported unless `name` is the plain name of a file in the image's own folder: no image
// makes Cofre read a file elsewhere.
void check_vmdk_extent_name(const std::string& name, const std::string& image);

}  // namespace cofre::foreign
