// Compressed clusters: raw deflate and zstd.
// Source: qcow2 specification, "Compressed Clusters Descriptor".
#pragma once

#include "base/bytes.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

// Both run on any thread; each thread keeps the memory of its coders.

// Encodes a cluster as one stream into `stream` and gives the stream's length; 0 if it would not fit. Streams
// of deflate look back 4 KiB at most: that is all the window that readers need to have.
size_t compress(CompressionType type, ConstBytes cluster, Bytes stream);

// Decodes one stream from the start of `stream` (which may go on with other bytes) until `cluster` is full.
// False if the stream is damaged or too short.
bool decompress(CompressionType type, ConstBytes stream, Bytes cluster);

}  // namespace cofre::qcow2
