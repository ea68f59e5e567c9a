// Copies what a reader of the sources would see into a target, on all lanes at once.
//
// Map: the home lane walks the sources' extents and cuts them into chunks of about a megabyte, aligned to the
// target's clusters. Move: workers spread over the lanes read a chunk, look for zeros and write the rest,
// each with one buffer of its own. Runs of the source that read as zero are never read. Buffers stay under 64
// MiB whatever `parallel` is.
#pragma once

#include <cstdint>
#include <vector>

#include "block/device.h"
#include "io/lanes.h"
#include "job/progress.h"
#include "job/salvage.h"
#include "storage/file.h"

namespace cofre::job {

struct ConvertOptions {
  // Copies only what the layers above this base decide; the rest is left to the target's backing file. One
  // source only. Null: everything.
  block::Device* source_base = nullptr;
  // Runs of zeros at least so long, found in bytes read, are not written as data. 0: every byte is written as
  // data.
  uint64_t sparse_bytes = 4096;
  bool target_reads_zero =
      false;  // the target is new: where it has no backing file, zeros need not be written
  bool target_has_backing = false;  // what is not written shows the backing file: zeros are written over it
  bool no_overwrite = false;        // compressed: fails where the target holds a cluster already
  bool compressed = false;          // the target stores compressed what that makes shorter
  bool zero_tail = false;  // a target longer than the sources: zero the rest too (else it is left alone)
  uint64_t bytes_per_second = 0;  // the most that is written as bytes; 0: no limit
  unsigned parallel = 0;          // chunks in flight (-m); 0: chosen by the number of lanes
  // Not empty: hears of what cannot be read, and zeros take its place rather than to end the job.
  TellUnreadable unreadable = {};
  // The files of which the one source and the target are the bytes as they lie, to have the kernel copy from
  // one to the other as long as it can (-C); null: bytes pass through here. Zeros in data are not looked for
  // then.
  storage::FileDevice* source_file = nullptr;
  storage::FileDevice* target_file = nullptr;
  // false: writes are begun in rising order, so that a target lays out its clusters in the order of the disk.
  bool out_of_order = true;
  Progress progress = {};
};

// Bytes of the target's range. written + zeroed + skipped is the length of what the job covers.
struct ConvertStats {
  uint64_t bytes_read = 0;       // data, and small holes between it
  uint64_t bytes_written = 0;    // written as bytes
  uint64_t bytes_zeroed = 0;     // written by write_zeroes()
  uint64_t bytes_offloaded = 0;  // of those written: copied by the kernel
  uint64_t bytes_skipped = 0;    // zeros not written, and what is left to the base
  double seconds = 0;
};

// Runs on the home lane of `lanes`. Sources are concatenated, each padded with zeros to 512 bytes. The target
// must be at least as long (Error kInvalidArgument); up to one request_alignment behind the sources is padded
// with zeros, and bytes behind that are left alone, as qemu-img does, or zeroed (zero_tail). Does not flush
// or close. The first error of a device stops everything and is thrown; the target then holds part of the
// copy. Cancelled: Error kCancelled. Throws Error kInvalidArgument for no source at all, or a base with more
// than one, kUnsupported for a target that cannot compress and shall.
io::task<ConvertStats> convert(io::Lanes& lanes, std::vector<block::Device*> sources, block::Device& target,
                               ConvertOptions options);

// The same with the home lane current and others given (a single one under a simulated reactor). `lanes[0]`
// is home.
io::task<ConvertStats> convert_on(std::vector<io::Reactor*> lanes, std::vector<block::Device*> sources,
                                  block::Device& target, ConvertOptions options);

}  // namespace cofre::job
