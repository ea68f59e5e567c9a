// How the nodes below an image are opened: storage and filters, each by its driver, down to where bytes rest.
// Home lane.
#pragma once

#include "image/node.h"

namespace cofre::image {

// What stays the same all the way down a chain.
struct Walk {
  OpenPolicy policy;
  std::vector<storage::FileDevice::Identity> files;
  std::vector<Layer> chain;
  References references;
};

// One image and what is below it in its chain (open.cc): its layers are added to the walk. The device is the
// node's; filters over it are part of it.
io::task<Node> open_layer(Walk& walk, ImageName name, OpenPolicy policy);

// A node under an image's "file", "data-file" and the like: not probed, no layer of its own. `options` with
// their "driver"; none is "file". Throws Error.
io::task<Node> open_storage(Walk& walk, Options options, OpenPolicy policy, const std::string& what);

// A filter, `below` being the node under it. `options` are the filter's own, all of them.
//   throttle       throttle-group=ID
//   copy-on-read
//   blkdebug       blkdebug_options.h
//   blkverify      raw.*: the copy to compare with
io::task<Node> open_filter(Walk& walk, const std::string& driver, Options options, Node below,
                           OpenPolicy policy);

// The options of a node's child under `prefix`. Throws Error where the child is named as a node, or not at
// all.
Options take_child(Options& options, const std::string& prefix, const std::string& what);

// raw's offset= and size=, if they are there; the device counts in whole sectors. Throws Error.
void apply_raw_window(Node& node, Options& options);
// detect-zeroes, and discard of a raw image.
void apply_node_options(Node& node, const NodeOptions& options);

}  // namespace cofre::image
