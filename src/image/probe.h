// Which format a file has, told by its first bytes. Any lane.
#pragma once

#include <optional>
#include <string_view>

#include "block/device.h"

namespace cofre::image {

enum class Format { kRaw, kQcow2, kLuks };

std::string_view format_name(Format format) noexcept;
// Nothing for a name that is none.
std::optional<Format> find_format(std::string_view name) noexcept;
// Throws Error kInvalidArgument naming the formats there are.
Format parse_format(std::string_view name);

// qcow2 or luks by their magic, else raw. A file that a guest may write says what that guest wants: give the
// format where it is known.
io::task<Format> probe_format(block::Device& file);

}  // namespace cofre::image
