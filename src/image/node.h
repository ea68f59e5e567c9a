// A node of the graph below an image: a device and what its opener has to know of it. Home lane.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "image/open.h"
#include "image/options.h"

namespace cofre::image {

struct Node {
  std::unique_ptr<block::Device> device;
  // How QEMU names it: by a file name where that says all, else (empty) by a description.
  std::string filename = {};
  nlohmann::ordered_json description = {};
  // The files of this host in it that take part in image locking.
  std::vector<storage::FileDevice*> files = {};
  storage::FileDevice* host_file = nullptr;   // if it is one, and nothing else
  bool tells_nothing = false;                 // of itself: neither clusters nor whether it is dirty
  bool force_share = false;                   // some file in it bears other writers
  layer::Breakpoints* breakpoints = nullptr;  // of the uppermost blkdebug below the image, if there is one
};

// "driver", "filename" and "json:" names as info shows them.
std::string shown_name(const Node& node);
std::string json_name(const nlohmann::ordered_json& description);

enum class DetectZeroes { kOff, kOn, kUnmap };

// The options that every node has.
struct NodeOptions {
  CacheMode cache;
  bool writable = false;
  bool force_share = false;
  bool discard_unmap = true;
  DetectZeroes detect_zeroes = DetectZeroes::kOff;
};

// Takes them out of `options`; what is not said is as in `policy`. Throws Error kReadOnly where something is
// to be written to that is said to be read-only. `what` is for messages.
NodeOptions take_node_options(Options& options, const OpenPolicy& policy, const std::string& what);
// The policy for the children of a node with these options.
OpenPolicy policy_of_child(const OpenPolicy& policy, const NodeOptions& options);

}  // namespace cofre::image
