// Bytes of a file that nobody reads: looked at sector by sector, and wiped. Home lane.
#pragma once

#include <functional>

#include "base/bytes.h"
#include "block/device.h"

namespace cofre::job {

// Visits [begin, end) of what the file has, sector by sector; the first and the last may be cut.
io::task<void> for_each_sector(block::Device& file, uint64_t begin, uint64_t end,
                               std::function<void(uint64_t offset, ConstBytes bytes)> visit);

// Writes bytes wherever they begin and end; what shares their sectors stays.
io::task<void> write_bytes(block::Device& file, uint64_t offset, ConstBytes bytes);

// Makes every byte of [begin, end) zero, as far as the file goes, and writes nothing where they are. How many
// were not. With `give_back`, whole clusters: their space goes back to the host.
io::task<uint64_t> wipe(block::Device& file, uint64_t begin, uint64_t end, bool give_back = false);

}  // namespace cofre::job
