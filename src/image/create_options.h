// The options that a new image of each format takes (-o): their list for help, and from text to the formats'
// own types. Any lane.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "format/luks/luks1.h"
#include "format/qcow2/create.h"
#include "image/options.h"
#include "image/probe.h"
#include "storage/file.h"

namespace cofre::image {

struct OptionHelp {
  std::string_view name;
  std::string_view kind;  // "str", "size", "num", "bool (on/off)"
  std::string_view text;
  std::string_view shown_default;  // what "Formatting ..." shows when not given; empty: nothing
  bool of_file = false;            // of the file that holds the image, not of the format
};

// In the order in which "Formatting ..." shows them.
std::span<const OptionHelp> create_options(Format format) noexcept;
// The text of -o help; `with_file`: the target is named, so that its own options are told too.
std::string create_options_help(Format format, bool with_file);
// Its lines, one an option.
std::string option_lines(std::span<const OptionHelp> options);

// Options that images are made with and that can be changed later: each is taken out of `options`. Throw
// Error kInvalidArgument.
std::optional<std::chrono::milliseconds> take_iter_time(Options& options, const std::string& name);
std::optional<uint32_t> take_version(Options& options);  // "compat"

// What -o, -b and -F say, taken apart and checked one by one.
struct CreateSettings {
  std::optional<uint64_t> size_bytes;
  qcow2::CreateOptions qcow2;     // without size
  luks::Luks1CreateOptions luks;  // of a container of its own
  storage::FileHints hints;
  qcow2::Preallocation preallocation = qcow2::Preallocation::kOff;
  std::optional<std::string> key_secret;
  bool legacy_encryption = false;  // asked for with encryption=on
};

// Throws Error kInvalidArgument or kUnsupported for what the format does not have.
CreateSettings parse_create_options(Format format, Options options);

// "fmt=qcow2 cluster_size=65536 ... size=1048576 ...": the options as given, with the defaults that qemu-img
// shows.
std::string options_summary(Format format, const Options& given, uint64_t size_bytes);

}  // namespace cofre::image
