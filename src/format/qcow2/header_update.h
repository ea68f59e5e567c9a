// Rewrites the header of an open image, with its extensions and names, so that a crash at any moment leaves a
// header that opens: the old one or the new one.
//
// Source: qcow2 specification, "Header", "Header extensions".
#pragma once

#include "format/qcow2/state.h"

namespace cofre::qcow2 {

// Makes `changed` the header on disk and in `state`. Start from a copy of state.header: extensions and fields
// that are not known here are in it and are kept; autoclear bits that are not known are cleared. Where the
// cluster has no room left for the feature-name table, that is left out. Durable when it returns; what the
// new header presumes (tables, data) the caller made durable before. It does not touch the structures that
// the header names.
//
// Home lane, `metadata` is held. Throws Error kLimit before anything changes where the header does not fit in
// a cluster, kInvalidArgument for a backing file beside a raw data file, and what the file throws: the old
// header or the new one is on disk then, and `state` has the old one.
io::task<void> update_header(State& state, Header changed);

}  // namespace cofre::qcow2
