// Sizes as people write and read them, in the spelling of qemu-img. Any lane.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cofre::image {

// The largest size that files, and so images, can have.
inline constexpr uint64_t kMaxSizeBytes = INT64_MAX;

// "65536", "64k", "1.5M", "0x10000", "10G": a multiple of bytes with an optional suffix b, k, M, G, T, P or E
// in either case (powers of 1024; none: bytes). A fraction is rounded to whole bytes. Throws Error that names
// `what`: kInvalidArgument, kLimit for more than kMaxSizeBytes.
uint64_t parse_size(std::string_view text, std::string_view what = "size");

// Three significant digits and a unit: "1 GiB", "196 KiB", "0.977 MiB".
std::string format_size(uint64_t bytes);

// As qemu-io writes them: "64 KiB", "976.562 KiB", "100 bytes".
std::string format_size_exact(uint64_t bytes);

}  // namespace cofre::image
