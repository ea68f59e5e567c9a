// Which format a file has, told by its first bytes. Any lane.
#pragma once

#include <optional>
#include <string_view>

#include "block/device.h"

namespace cofre::image {

// The last four are other programs', which are only read.
enum class Format { kRaw, kQcow2, kLuks, kVmdk, kVdi, kVhdx, kVpc };

std::string_view format_name(Format format) noexcept;
// Nothing for a name that is none.
std::optional<Format> find_format(std::string_view name) noexcept;
// Throws Error kInvalidArgument naming the formats there are.
Format parse_format(std::string_view name);

// Whether Cofre makes and writes images of the format.
bool is_writable_format(Format format) noexcept;
// Throws Error kUnsupported for a format that is only read.
void require_writable_format(Format format);

// By the magic, as QEMU tells; else raw (a fixed VHD too: it starts as its disk does). A file that a guest
// may write says what that guest wants: give the format where it is known.
io::task<Format> probe_format(block::Device& file);

}  // namespace cofre::image
