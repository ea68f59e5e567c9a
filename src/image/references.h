// Which files the header of an image may have opened: its backing file, its data file, the extents of a vmdk.
//
// Whoever makes an image writes any name into it. If such an image is opened for its maker (converted,
// served), what the name leads to is given to him: a file of this host that was none of his business. So
// images whose maker is not known get a policy. Files are compared by where they are once every symbolic link
// is followed. Any lane.
#pragma once

#include <string>
#include <vector>

#include "image/options.h"

namespace cofre::image {

struct References {
  enum class Trust {
    kAll,     // as QEMU does
    kBeside,  // files in the folder of the top image, and below it
    kNone,
  };
  Trust trust = Trust::kAll;
  std::vector<std::string> folders = {};  // also what is in these, and below them

  // Of the image at `path`: kBeside becomes that folder. An empty path: it is no file of this host.
  References of(const std::string& path) const;
  // Throws Error kPermission unless `path`, which `overlay` names in its header, may be opened. `what` is
  // what it is to be: "backing file".
  void require(const std::string& path, const std::string& overlay, const std::string& what) const;
  // The same of every file in the options of a name from a header.
  void require_all(const Options& named, const std::string& overlay, const std::string& what) const;
};

}  // namespace cofre::image
