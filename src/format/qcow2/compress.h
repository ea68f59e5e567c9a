// Compressed clusters: raw deflate (window of 4 KiB) and zstd.
// Source: qcow2 specification, "Compressed Clusters Descriptor".
#pragma once

#include "base/bytes.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

// Decodes one stream from the start of `stream` (which may go on with other bytes) until `cluster` is full.
// False if the stream is damaged or too short.
bool decompress(CompressionType type, ConstBytes stream, Bytes cluster);

}  // namespace cofre::qcow2
