// Which bytes of the first cluster the header leaves unused. A codec without I/O.
// Source: qcow2 specification, "Header", "Header extensions".
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace cofre::qcow2 {

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The ranges that neither the header, nor its extensions, nor the backing file's name takes. `cluster` is the
// first cluster of an image whose header decode_header() takes.
std::vector<ByteRange> unused_header_bytes(ConstBytes cluster);

}  // namespace cofre::qcow2
