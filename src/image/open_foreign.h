// Opens images of other programs: vmdk, vdi, vhdx, vpc. Home lane.
#pragma once

#include <memory>
#include <string>

#include "format/foreign/image.h"
#include "format/foreign/vpc.h"
#include "image/options.h"
#include "image/probe.h"
#include "image/references.h"
#include "storage/file.h"

namespace cofre::image {

struct ForeignSource {
  Format format = Format::kVmdk;
  std::string path;
  bool has_folder = true;             // it is a file of this host, beside which others may lie
  storage::FileOptions extent_files;  // how a vmdk's other files are opened
  foreign::VpcSize vpc_size = foreign::VpcSize::kByCreator;
  References references = {};  // a vmdk's other files
};

// Throws Error of the format: see foreign::Vmdk and its like.
io::task<std::unique_ptr<foreign::Image>> open_foreign(ForeignSource source,
                                                       std::unique_ptr<block::Device> file);

// The option force_size_calc, QEMU's name for it. Throws Error kInvalidArgument.
foreign::VpcSize take_vpc_size(Options& options);

// Throws Error kReadOnly for a format that is only read.
void require_writable(Format format, const std::string& path);

}  // namespace cofre::image
