// The configuration file of `cofre serve`: TOML 1.0, with a table [server] and a table [[export]] for each
// image. See docs/serve.md.
#pragma once

#include <string>
#include <vector>

#include "tool/served_images.h"
#include "tool/serving_vhost.h"

namespace cofre::tool {

struct ConfiguredExport {
  ServedImage image;
  std::string vhost_path;  // of its socket; empty: none
  std::string serial;
};

struct ServeConfig {
  // What [server] says, as words of the command line. Those of the user come behind them: there the last of
  // several equal options counts, and lists are joined.
  std::vector<std::string> options;
  std::vector<ConfiguredExport> exports;
};

// Throws Error: kInvalidArgument, whose sentence begins with file, line and column, for what is no TOML, keys
// that are not known, values that are not of their kind; what reading throws.
ServeConfig read_serve_config(const std::string& path);

// Puts the exports behind the images of the command line.
void append_exports(const std::vector<ConfiguredExport>& exports, std::vector<ServedImage>& images,
                    VhostPlan& vhost);

}  // namespace cofre::tool
