// Steps inside a format that a fault injector below may act on: blkdebug's events, by QEMU's names.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace cofre::block {

// Those that Cofre raises. The others are taken by name, and never come.
enum class Event : uint8_t {
  kL1Update,
  kL2Load,
  kL2Update,
  kL2AllocWrite,
  kReadAio,
  kReadBackingAio,
  kReadCompressed,
  kWriteAio,
  kWriteCompressed,
  kRefTableUpdate,
  kRefBlockLoad,
  kRefBlockUpdate,
  kRefBlockAlloc,
  kClusterAlloc,
  kClusterFree,
  kFlushToOs,
  kFlushToDisk,
  kPwritevRmwHead,  // these four by whoever aligns requests to blocks
  kPwritevRmwAfterHead,
  kPwritevRmwTail,
  kPwritevRmwAfterTail,
  kPwritev,  // the last three, by the injector itself, of its own requests
  kPwritevZero,
  kPwritevDone,
  kNone,  // comes once, when the injector is opened
};

inline constexpr std::array<std::string_view, 25> kEventNames = {"l1_update",
                                                                 "l2_load",
                                                                 "l2_update",
                                                                 "l2_alloc_write",
                                                                 "read_aio",
                                                                 "read_backing_aio",
                                                                 "read_compressed",
                                                                 "write_aio",
                                                                 "write_compressed",
                                                                 "reftable_update",
                                                                 "refblock_load",
                                                                 "refblock_update",
                                                                 "refblock_alloc",
                                                                 "cluster_alloc",
                                                                 "cluster_free",
                                                                 "flush_to_os",
                                                                 "flush_to_disk",
                                                                 "pwritev_rmw_head",
                                                                 "pwritev_rmw_after_head",
                                                                 "pwritev_rmw_tail",
                                                                 "pwritev_rmw_after_tail",
                                                                 "pwritev",
                                                                 "pwritev_zero",
                                                                 "pwritev_done",
                                                                 "none"};

inline constexpr std::string_view event_name(Event event) {
  return kEventNames[static_cast<size_t>(event)];
}

}  // namespace cofre::block
