// What a user writes for an image: a path, a "json:{...}" description, or (--image-opts) an option list. Any
// lane.
//
// An image is a tree of options, as in QEMU: each node has a driver and the driver's options, and those of
// its children begin with "file.", "backing." and so on.
//   driver=raw|qcow2|luks|vmdk|vdi|vhdx|vpc   left out: told by the content
//     raw: offset=, size=; luks: key-secret=ID; vpc: force_size_calc=current_size|chs
//     qcow2: encrypt.key-secret=ID, encrypt.format=luks|aes, backing.*, data-file.*, and what
//     qcow2_options.h tells
//   driver=file|host_device|nbd|null-co|null-aio          storage: storage_drivers.h
//   driver=throttle|copy-on-read|blkdebug|blkverify       filters: graph.h
//   cache.direct, cache.no-flush, read-only, auto-read-only, discard, detect-zeroes, node-name, force-share
//                                    every node
#pragma once

#include <optional>
#include <string>

#include "image/options.h"
#include "image/probe.h"
#include "image/references.h"

namespace cofre::image {

struct ImageName {
  std::string text;              // as written, for messages
  Options options;               // the tree above, without the driver
  std::optional<Format> format;  // of the driver or -f
  std::string driver = {};       // one that is no format
  References references = {};    // of the top of a chain: what it and the images below it may name
};

// A path, a name with a protocol (protocol_name.h) or "json:{...}", whose driver `format` overrules. Throws
// Error kInvalidArgument, kUnsupported for a protocol that there is not.
ImageName parse_image_name(const std::string& text, std::optional<Format> format = std::nullopt);
// The same for a name out of an image's header, which nobody here wrote: it may name files and formats over
// them, but no server, and no filter that reads further files. Throws Error kUnsupported.
ImageName parse_header_name(const std::string& text, std::optional<Format> format = std::nullopt);
// The file `path`, whatever characters are in it.
ImageName image_name_of_file(const std::string& path, std::optional<Format> format = std::nullopt);
// The text after --image-opts. Throws Error kInvalidArgument.
ImageName parse_image_options(const std::string& text);
// A tree of options: of a json: name, or the part of another one under "backing.".
ImageName image_name_of(Options options, const std::string& text);

// A backing or data file named in the header of `overlay_path`: relative to that file's folder, unless it is
// absolute or begins with a protocol or "json:".
std::string resolve_beside(const std::string& overlay_path, const std::string& name);

}  // namespace cofre::image
