// The options of an existing image that can be changed (amend -o): their list for help, and from text to
// values. Any lane.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "image/options.h"
#include "image/probe.h"

namespace cofre::image {

// Change of a LUKS keyslot; secrets by their ids.
struct KeyslotSettings {
  bool activate = false;
  std::optional<int64_t> keyslot;
  std::optional<std::string> new_secret;
  std::optional<std::string> old_secret;
  std::optional<std::chrono::milliseconds> iter_time;
};

struct AmendSettings {
  std::optional<KeyslotSettings> keyslot;
  // qcow2
  std::optional<uint32_t> version;
  std::optional<uint64_t> size_bytes;
  std::optional<bool> lazy_refcounts;
  std::optional<uint32_t> refcount_order;
  std::optional<std::string> data_file;  // empty: none
  std::optional<bool> data_file_raw;
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
};

// Throws Error kInvalidArgument for what cannot be amended (options of new images only, unknown ones) and
// kUnsupported for a format without such options.
AmendSettings parse_amend_options(Format format, Options options);
// The text of -o help; empty: the format has none.
std::string amend_options_help(Format format);
// Throws Error kUnsupported for a format whose options cannot be changed.
void require_amendable(Format format);

}  // namespace cofre::image
