// What a user writes for an image: a path, a "json:{...}" description, or (--image-opts) an option list. Any
// lane.
//
// An image is a tree of options, as in QEMU:
//   driver=raw|qcow2|luks|vmdk|vdi|vhdx|vpc   left out: told by the content
//   file.driver=file                 (the default) a file or block device of this host
//   file.filename=PATH
//   key-secret=ID                    luks
//   encrypt.key-secret=ID, encrypt.format=luks|aes         qcow2
//   force_size_calc=current_size|chs                  vpc
//   backing.file.filename=..., backing.driver=..., ...     qcow2: in place of what the header names; backing=
//   for none data-file.filename=PATH          qcow2: in place of the header's data file cache.direct,
//   cache.no-flush, l2-cache-size, refcount-cache-size, cache-size, discard, read-only, force-share
#pragma once

#include <optional>
#include <string>

#include "image/options.h"
#include "image/probe.h"

namespace cofre::image {

struct ImageName {
  std::string text;              // as written, for messages
  Options options;               // the tree above, without the driver
  std::optional<Format> format;  // of the driver or -f
};

// A path (also "file:PATH") or "json:{...}". Throws Error kInvalidArgument, kUnsupported for "nbd://..." and
// the like (as in QEMU, whatever has a colon before the first slash).
ImageName parse_image_name(const std::string& text, std::optional<Format> format = std::nullopt);
// The file `path`, whatever characters are in it.
ImageName image_name_of_file(const std::string& path, std::optional<Format> format = std::nullopt);
// The text after --image-opts. Throws Error kInvalidArgument.
ImageName parse_image_options(const std::string& text);
// A tree of options: of a json: name, or the part of another one under "backing.".
ImageName image_name_of(Options options, const std::string& text);

// A backing or data file named in the header of `overlay_path`: relative to that file's folder, unless it is
// absolute or a "json:" or "file:" name.
std::string resolve_beside(const std::string& overlay_path, const std::string& name);

}  // namespace cofre::image
