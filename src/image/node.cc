#include "image/node.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace cofre::image {
namespace {

void check_node_name(const std::string& name, const std::string& what) {
  const auto inner = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '_';
  };
  if (name.empty() || name.size() > 31 || std::isalpha(static_cast<unsigned char>(name[0])) == 0 ||
      !std::ranges::all_of(name, inner))
    fail(ErrorKind::kInvalidArgument,
         "'{}': node-name '{}' is none: a letter, then up to 30 letters, digits, '-', '.' and '_'", what,
         name);
}

bool take_discard_unmap(Options& options, const std::string& what) {
  const std::string discard = options.take("discard").value_or("unmap");
  if (discard == "unmap" || discard == "on") return true;
  if (discard == "ignore" || discard == "off") return false;
  fail(ErrorKind::kInvalidArgument, "'{}': discard is unmap or ignore, not '{}'", what, discard);
}

DetectZeroes take_detect_zeroes(Options& options, bool discard_said, const std::string& what) {
  const std::string detect = options.take("detect-zeroes").value_or("off");
  if (detect == "off") return DetectZeroes::kOff;
  if (detect == "on") return DetectZeroes::kOn;
  if (detect != "unmap")
    fail(ErrorKind::kInvalidArgument, "'{}': detect-zeroes is off, on or unmap, not '{}'", what, detect);
  if (!discard_said) fail(ErrorKind::kInvalidArgument, "'{}': detect-zeroes=unmap needs discard=unmap", what);
  return DetectZeroes::kUnmap;
}

}  // namespace

std::string json_name(const nlohmann::ordered_json& description) {
  // QEMU puts a space after each comma and colon here, on one line.
  std::string text = "json:";
  bool in_string = false;
  for (const char c : description.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace)) {
    if (c == '"' && text.back() != '\\') in_string = !in_string;
    text += c;
    if (!in_string && (c == ',' || c == ':')) text += ' ';
  }
  return text;
}

std::string shown_name(const Node& node) {
  return node.filename.empty() ? json_name(node.description) : node.filename;
}

NodeOptions take_node_options(Options& options, const OpenPolicy& policy, const std::string& what) {
  NodeOptions node;
  node.cache = policy.cache;
  node.cache.direct = options.take_bool("cache.direct").value_or(node.cache.direct);
  node.cache.no_flush = options.take_bool("cache.no-flush").value_or(node.cache.no_flush);
  if (const auto name = options.take("node-name")) check_node_name(*name, what);
  options.take_bool("auto-read-only");  // what is to be written to is opened so, or not at all
  node.force_share = options.take_bool("force-share").value_or(policy.force_share);
  node.writable = policy.writable;
  if (options.take_bool("read-only").value_or(false) && policy.writable)
    fail(ErrorKind::kReadOnly, "'{}' is said to be read-only, but is to be written to", what);
  if (node.force_share && node.writable)
    fail(ErrorKind::kInvalidArgument, "'{}': -U (--force-share) is for reading only", what);
  const bool discard_said = options.has("discard");
  node.discard_unmap = take_discard_unmap(options, what);
  node.detect_zeroes = take_detect_zeroes(options, discard_said && node.discard_unmap, what);
  return node;
}

OpenPolicy policy_of_child(const OpenPolicy& policy, const NodeOptions& options) {
  OpenPolicy child = policy;
  child.cache = options.cache;
  child.writable = options.writable;
  child.force_share = options.force_share;
  return child;
}

}  // namespace cofre::image
