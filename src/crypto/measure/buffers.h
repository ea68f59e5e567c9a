// What the subjects of a measurement work on. Private to crypto/measure/.
#pragma once

#include <cstddef>

#include "base/aligned_buffer.h"
#include "base/bytes.h"
#include "crypto/measure/speed.h"

namespace cofre::crypto {

class SpeedBuffers {
 public:
  SpeedBuffers();

  ConstBytes source(size_t bytes) const { return ConstBytes(source_.bytes()).first(bytes); }
  Bytes destination(size_t bytes) { return destination_.bytes().first(bytes); }

 private:
  AlignedBuffer source_{kMaxSpeedRunBytes};
  AlignedBuffer destination_{kMaxSpeedRunBytes};
};

}  // namespace cofre::crypto
