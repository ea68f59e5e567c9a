// Changes options of an existing image: version, width and laziness of refcounts, size, data file.
// Source: qcow2 specification, "Header", "Host cluster management". Steps follow QEMU's order: version up,
// refcounts, data file, size, version down.
//
// A crash at any moment leaves an image that opens, with the option as before or as asked for; at worst
// clusters are leaked. Steps that were done stay done when a later one fails.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "format/qcow2/image.h"

namespace cofre::qcow2 {

struct AmendOptions {
  std::optional<uint32_t> version{};
  std::optional<uint64_t> size_bytes{};  // 0 changes nothing, as in QEMU
  std::optional<bool> lazy_refcounts{};
  std::optional<uint32_t> refcount_order{};
  std::optional<std::string> data_file{};  // empty: the header names none
  std::optional<bool> data_file_raw{};
  std::optional<std::string> backing_file{};  // may only be what they are
  std::optional<std::string> backing_format{};
};

struct AmendHooks {
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
  std::function<bool()> cancelled = nullptr;
};

// Throws Error kInvalidArgument or kUnsupported for what the image cannot become, as far as its header tells:
// nothing has changed then.
void validate_amendment(Image& image, const AmendOptions& options);

// The image is open for writing, unlocked if it is encrypted, and over its backing file if the size or the
// version changes. Throws Error as validate_amendment(); kLimit when a refcount does not fit the new width;
// kUnsupported when clusters do not fit the old version; kCancelled. Done means durable.
io::task<void> amend(Image& image, AmendOptions options, AmendHooks hooks);

}  // namespace cofre::qcow2
