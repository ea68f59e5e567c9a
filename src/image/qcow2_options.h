// The run-time options of driver qcow2. Any lane.
//
//   lazy-refcounts, pass-discard-request, -snapshot, -other        on|off
//   cache-size, l2-cache-size, refcount-cache-size                 bytes of tables kept in memory
//   overlap-check=none|constant|cached|all (also .template, and .main-header, ... each on|off),
//   l2-cache-entry-size, cache-clean-interval                      taken and checked: overlaps are always
//       looked for, tables are always kept in pieces of 4 KiB, and memory is given back at the end
//   encrypt.format, encrypt.key-secret, backing, backing.*, data-file.*      see open.cc
#pragma once

#include <optional>

#include "format/qcow2/image.h"
#include "image/options.h"

namespace cofre::image {

struct Qcow2Settings {
  std::optional<bool> lazy_refcounts;
  std::optional<bool> pass_discard_request;  // none: as the node's discard= has it
  bool pass_discard_snapshot = true;
  bool pass_discard_other = false;
  uint64_t l2_cache_bytes = 0;  // 0: left to the image
  uint64_t refcount_cache_bytes = 0;
  uint64_t l2_cache_entry_bytes = 0;  // 0: not said
};

// Throws Error kInvalidArgument.
Qcow2Settings take_qcow2_settings(Options& options);
// What only an image's header can refuse. Throws Error kInvalidArgument.
void check_qcow2_settings(const Qcow2Settings& settings, const qcow2::Header& header);

}  // namespace cofre::image
