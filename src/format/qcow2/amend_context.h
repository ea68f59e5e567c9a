// What the steps of amend share. Home lane.
#pragma once

#include "base/error.h"
#include "format/qcow2/amend.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

struct AmendContext {
  State& state;
  const AmendHooks& hooks;

  // To be called now and then: tells progress, and throws Error kCancelled if so wished.
  void step(uint64_t done, uint64_t total) const {
    if (hooks.cancelled && hooks.cancelled())
      fail(ErrorKind::kCancelled, "'{}': the change was cancelled; the image is sound", state.name);
    if (hooks.progress) hooks.progress(done, total);
  }
};

// Refcounts of another width: a new table and new blocks past everything that the file holds, which the
// header names last; then the old ones are given up (refcount_width.cc). `metadata` is held, nothing is
// dirty.
io::task<void> change_refcount_width(AmendContext context, uint32_t order);

// Leaves no cluster with the reads-as-zero flag, which version 2 lacks, in the disk or in a snapshot:
// unmapped where nothing is below, filled with zeros over a backing file (expand_zeroes.cc). Nothing else is
// in flight. Throws Error kUnsupported at a compressed cluster that version 2 could not read.
io::task<void> expand_zero_clusters(AmendContext context);

// Throws Error kCorrupt for a version 2 image with an entry that would read as zero in version 3.
io::task<void> require_no_zero_flags(AmendContext context);

}  // namespace cofre::qcow2
