// Makes new images: from options to a file that open_image() opens. Home lane.
#pragma once

#include <optional>
#include <string>

#include "image/create_options.h"
#include "image/open.h"
#include "image/target_file.h"

namespace cofre::image {

struct CreateRequest {
  std::string path;  // as the user names the new image; relative backing names count from its folder
  Format format = Format::kRaw;
  Options options;                            // -o
  std::optional<uint64_t> size_bytes;         // rounded up to sectors; none: the backing file's
  std::optional<std::string> backing_file;    // -b
  std::optional<std::string> backing_format;  // -F
  bool unchecked_backing = false;             // -u: the backing file need not be there
};

// A request checked as a whole: nothing about it can be wrong any more but the storage.
struct CreatePlan {
  std::string path;
  Format format = Format::kRaw;
  uint64_t size_bytes = 0;
  bool elsewhere = false;  // the path is the name of an NBD export, which is there already
  CreateSettings settings = {};
  std::string summary = {};  // "fmt=qcow2 ...", for "Formatting '...', ..."
  bool encrypted() const {
    return format == Format::kLuks || settings.qcow2.encryption != qcow2::CryptMethod::kNone;
  }
};

// Opens the backing file to see that it is one, and for its size. Throws Error.
io::task<CreatePlan> plan_image(CreateRequest request);

// The LUKS volume of a new image, for those who open it next; nothing if it has none.
using NewVolume = std::optional<luks::Luks1Volume>;

// Creates the file at target.working_path(), and the data file under its own name. Throws Error; what it made
// then is the TargetFile's to remove.
io::task<NewVolume> create_image(CreatePlan plan, TargetFile& target, Secrets& secrets, CacheMode cache);

// The name under which the new image is opened before its target is committed.
ImageName name_of_new_image(const CreatePlan& plan, const TargetFile& target);

}  // namespace cofre::image
